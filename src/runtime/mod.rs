//! glommio and io_uring: the pump, its connections, the links between cores.
