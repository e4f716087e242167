"""Where networks and datasets come from: generators, files and arrays of other libraries. Import what you need."""
