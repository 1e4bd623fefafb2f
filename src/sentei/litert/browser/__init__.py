"""Running files in a browser: Chromium, WebAssembly runtimes, a page that talks to our server."""
