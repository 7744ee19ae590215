// Command signalbox is a device hub and the command line that speaks to it.
package main

import (
	"os"

	"signalbox/internal/cli"
)

// version is set by the build: -ldflags '-X main.version=…'.
var version string

func main() { os.Exit(cli.Main(version)) }
