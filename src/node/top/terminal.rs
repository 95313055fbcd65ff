//! The terminal of `pbcache top`: keys one by one, a screen of its own, both put back at the end.
//!
//! Lives here: modes and escape sequences (ECMA-48, and xterm's for the other screen). Not here: what is shown (`screen`).
//! Unsafe lives here: foreign calls on structs on the stack.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;

use super::screen::{Line, Style};

/// Other screen, no cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// What a terminal has that does not tell its size.
const SIZE_DEFAULT: (usize, usize) = (80, 24);
/// Ctrl-C and Ctrl-D, which come as bytes here.
const INTERRUPT: u8 = 3;
const END_OF_INPUT: u8 = 4;

/// The terminal, in this mode until it is dropped.
pub struct Terminal {
    /// How it was; `None` where keys do not come from a terminal.
    before: Option<libc::termios>,
    colours: bool,
}

impl Terminal {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn enter() -> io::Result<Self> {
        let before = modes();
        if let Some(before) = before {
            let mut modes = before;
            modes.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
            set_modes(&modes);
        }
        let terminal = Self { before, colours: std::env::var_os("NO_COLOR").is_none_or(|word| word.is_empty()) };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Columns and rows.
    pub fn size(&self) -> (usize, usize) {
        let mut size = MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: the struct lives across the call, and all zero is a value of it.
        let size = unsafe {
            libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr());
            size.assume_init()
        };
        match (size.ws_col, size.ws_row) {
            (0, _) | (_, 0) => SIZE_DEFAULT,
            (columns, rows) => (columns.into(), rows.into()),
        }
    }

    /// Draws these lines over the last ones, without a flicker: each is written over, and what was behind it is cleared.
    pub fn show(&self, lines: &[Line]) {
        let mut text = String::from("\x1b[H");
        for (index, line) in lines.iter().enumerate() {
            let end = if index + 1 < lines.len() { "\r\n" } else { "" };
            text.push_str(&format!("{}{}\x1b[0m\x1b[K{end}", self.style(line.style), line.text));
        }
        text.push_str("\x1b[J");
        // A terminal that is gone sends a signal, or its end of input.
        let _ = write(&text);
    }

    fn style(&self, style: Style) -> &'static str {
        match style {
            Style::Plain => "",
            Style::Title => "\x1b[1m",
            _ if !self.colours => "\x1b[1m",
            Style::Good => "\x1b[32m",
            Style::Warn => "\x1b[1;33m",
            Style::Bad => "\x1b[1;31m",
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write(LEAVE);
        if let Some(before) = &self.before {
            set_modes(before);
        }
    }
}

/// Returns when somebody has pressed q or Ctrl-C. Where keys do not come from a terminal, never.
pub fn wait_for_end() {
    let mut byte = [0];
    while modes().is_some() {
        match io::stdin().read(&mut byte) {
            Ok(1) if !matches!(byte[0], b'q' | b'Q' | INTERRUPT | END_OF_INPUT) => {}
            _ => return,
        }
    }
    loop {
        std::thread::park();
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut output = io::stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}

fn modes() -> Option<libc::termios> {
    let mut modes = MaybeUninit::<libc::termios>::zeroed();
    // SAFETY: the struct lives across the call, and all zero is a value of it.
    let (result, modes) = unsafe { (libc::tcgetattr(libc::STDIN_FILENO, modes.as_mut_ptr()), modes.assume_init()) };
    (result == 0).then_some(modes)
}

fn set_modes(modes: &libc::termios) {
    // SAFETY: the struct lives across the call.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, modes) };
}
