// Lighter-guix is what guix-daemon runs in the place of guix, when GUIX in its
// environment says so: the build hook is package buildhook's, and for everything else it
// becomes the real guix. It is a program of its own because it is started for every
// build, signature and substitute, and is ready in a fraction of the time that lighter
// takes.
package main

import (
	"os"

	"lighter/internal/buildhook"
)

func main() { os.Exit(buildhook.Main(os.Args)) }
