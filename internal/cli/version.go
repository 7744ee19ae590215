package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what the build set, else what Go noted in the binary.
func (p *Program) version() string {
	if p.Version != "" {
		return p.Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func (c *command) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  signalbox version",
		Args:    between(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if c.flags.json {
				return c.printJSON(map[string]string{"version": c.version(), "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH})
			}
			return c.printf("signalbox %s (%s, %s/%s)\n", c.version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}
