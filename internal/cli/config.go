package cli

import (
	"maps"

	"github.com/spf13/cobra"

	"signalbox/internal/app"
)

func (c *command) configCommand() *cobra.Command {
	return parent("config", "Check the configuration, print its defaults or its reference",
		"A hub needs no configuration. What can be set stands in a YAML file, in variables of the\nenvironment and in flags of «signalbox serve»; «signalbox config doc» explains each key.",
		`  signalbox config default > signalbox.yaml
  signalbox config check signalbox.yaml
  signalbox config doc`,
		c.configCheckCommand(), c.configDefaultCommand(), c.configDocCommand())
}

func (c *command) configCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Tell what is wrong with the configuration, or what it changes",
		Long: "Reads the configuration as «signalbox serve» would, with the environment, and names every\n" +
			"fault with its file and line. Without faults it lists what differs from the defaults.",
		Example: "  signalbox config check\n  signalbox config check signalbox.yaml",
		Args:    between(0, 1),
		ValidArgsFunction: firstOnly(func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		}),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				c.flags.config = args[0]
			}
			loaded, err := c.loadConfig(nil)
			if err != nil {
				return err
			}
			if err := loaded.CheckCertificates(); err != nil {
				return err
			}
			if err := loaded.CheckForwarders(); err != nil {
				return err
			}
			if c.flags.json {
				return c.printJSON(map[string]any{"ok": true, "file": loaded.File, "from": loaded.From})
			}
			file := loaded.File
			if file == "" {
				file = "no file"
			}
			changed := loaded.Config.Changed()
			if err := c.printf("The configuration is good (%s); settings that differ from the defaults: %d\n", file, len(changed)); err != nil {
				return err
			}
			for _, line := range changed {
				if err := c.printf("  %s\n", line); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (c *command) configDefaultCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "default",
		Short:   "Print a configuration file with every key, its default and its meaning",
		Example: "  signalbox config default > signalbox.yaml",
		Args:    between(0, 0),
		RunE:    func(*cobra.Command, []string) error { return app.WriteDefaultConfig(c.Stdout) },
	}
}

func (c *command) configDocCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "doc",
		Short:   "Print the reference of all settings, as Markdown",
		Example: "  signalbox config doc | less",
		Args:    between(0, 0),
		RunE:    func(*cobra.Command, []string) error { return app.WriteConfigReference(c.Stdout) },
	}
}

// loadConfig reads the configuration with the flags every command has and those of serve.
func (c *command) loadConfig(more map[string]string) (app.LoadedConfig, error) {
	flags := make(map[string]string)
	maps.Copy(flags, more)
	if c.flags.data != "" {
		flags["data"] = c.flags.data
	}
	return app.LoadConfig(app.ConfigSources{File: c.flags.config, Environ: c.Env, Flags: flags})
}
