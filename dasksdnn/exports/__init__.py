"""Where networks go: a module a format that other tools read. Import what you need, or call `dasksdnn.export`."""
