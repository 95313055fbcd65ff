#!/usr/bin/env bash
# What does a GET over HTTP cost the server, beside a text get, nginx and Varnish?
#
#   benches/http.sh [ROUNDS]               loadgen compare over all four: 50 connections, 1 and 16 in flight, 10,000 values of 100 bytes
#   benches/http.sh nginx|varnish PORT     one of the others, in the foreground: what `loadgen compare` starts
#
# Unit: microseconds of the server's CPU time per request, in rounds that alternate. What would change our mind: HTTP above 1.15 times a
# text get with one in flight or twice with 16, above 0.6 times nginx, above 0.4 times Varnish.
# nginx: one worker, files on tmpfs, open_file_cache, no log. Varnish: all values in memory, behind such an nginx on BACKEND_PORT (23901).
# Needs Debian's nginx and varnish, and `cargo build --release --workspace`. What it writes is below FOLDER, a temporary one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
backend=${BACKEND_PORT:-23901}

nginx_on() {
    local folder="$FOLDER/nginx-$1"
    mkdir --parents "$folder/root" "$folder/tmp"
    cat >"$folder/conf" <<CONF
daemon off; master_process off; pid $folder/pid; error_log /dev/null; user root;
events { worker_connections 4096; multi_accept on; }
http {
    access_log off; etag off; server_tokens off; sendfile on; tcp_nodelay on; default_type application/octet-stream;
    keepalive_requests 1000000000; keepalive_timeout 300; client_body_temp_path $folder/tmp;
    open_file_cache max=20000 inactive=1h; open_file_cache_valid 1h; open_file_cache_min_uses 1;
    server { listen 127.0.0.1:$1; root $folder/root; location / { dav_methods PUT DELETE; client_max_body_size 10m; } }
}
CONF
    exec nginx -p "$folder" -c "$folder/conf"
}

varnish_on() {
    mkdir --parents "$FOLDER/varnish"
    cat >"$FOLDER/varnish/vcl" <<VCL
vcl 4.1;
backend nginx { .host = "127.0.0.1"; .port = "$backend"; }
sub vcl_recv { if (req.method == "PUT") { return (pass); } return (hash); }
sub vcl_backend_response { set beresp.ttl = 1d; set beresp.grace = 0s; }
VCL
    exec varnishd -F -a "127.0.0.1:$1" -f "$FOLDER/varnish/vcl" -s malloc,256m -n "$FOLDER/varnish/work" \
        -p thread_pools=1 -p thread_pool_min=60 -p thread_pool_max=400 -p timeout_idle=300
}

compare() {
    local release="${CARGO_TARGET_DIR:-$here/../target}/release" FOLDER backend_process
    FOLDER=$(mktemp --directory /dev/shm/pbcache-http.XXXXXX)
    export FOLDER
    chmod 755 "$FOLDER"
    "$0" nginx "$backend" &
    backend_process=$!
    # shellcheck disable=SC2064 # the values of now
    trap "kill $backend_process; rm --recursive '$FOLDER'" EXIT
    local node="$release/pbcache --cores 1 --ip 127.0.0.1 --port {port}"
    "$release/loadgen" compare --duration 2 --rounds "$1" --keys 10000 --ratio get:1 --over depth=1,16 -- \
        "http:$node" "text:$node" "http:bash $here/http.sh nginx {port}" "http:bash $here/http.sh varnish {port}"
}

case "${1:-5}" in
    nginx) nginx_on "$2" ;;
    varnish) varnish_on "$2" ;;
    *) compare "${1:-5}" ;;
esac
