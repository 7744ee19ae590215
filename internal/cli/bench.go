package cli

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"signalbox/internal/bench"
)

func (c *command) benchCommand() *cobra.Command {
	cmd := parent("bench", "Measure a hub: connections, telemetry, commands, reconnects, MQTT, viewers, history",
		`Measures a hub that it starts for the purpose, or with --url a running one, from this machine's loopback
addresses, and prints a table or --json. It wants all of the machine for itself.`,
		"  signalbox bench telemetry\n  signalbox bench connections --connections 18000 --json\n  signalbox bench commands --url http://127.0.0.1:8080 --token-file token --devices 127.0.0.1:8765 --pid 1234")
	for _, mode := range bench.Modes() {
		cmd.AddCommand(c.benchModeCommand(mode))
	}
	cmd.AddCommand(c.benchSinkCommand(), c.benchWriterCommand(), c.benchHistoryEngineCommand())
	return cmd
}

func (c *command) benchModeCommand(mode bench.Mode) *cobra.Command {
	var o bench.Options
	cmd := &cobra.Command{
		Use:     mode.Name,
		Short:   strings.ToUpper(mode.Summary[:1]) + mode.Summary[1:],
		Example: "  signalbox bench " + mode.Name + "\n  signalbox bench " + mode.Name + " --runs 1 --json",
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.measure(cmd.Context(), mode.Name, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.DevicesAddr, "devices", "", "host:port of the running hub's device port, with --url")
	flags.IntVar(&o.PID, "pid", 0, "the running hub's process, for CPU and memory, with --url")
	flags.StringVar(&o.Dir, "dir", "", "where a started hub keeps its data (default: the system's temporary directory)")
	flags.IntVar(&o.Connections, "connections", 0, "how many devices (default: by the measurement)")
	flags.DurationVar(&o.Duration, "duration", 0, "how long one load lasts (default 10s)")
	flags.IntVar(&o.Runs, "runs", 0, "how often each variant runs; medians are reported (default 3; history 1)")
	flags.Float64Var(&o.Rate, "rate", 0, "commands or messages a second (default: by the measurement)")
	flags.Float64Var(&o.Background, "background", 0, "telemetry messages a second beside commands (default 5000; negative: none)")
	flags.IntVar(&o.Rounds, "rounds", 0, "kills of the measurement survive, also that of mqtt (default 20)")
	flags.IntVar(&o.Workers, "workers", 0, "goroutines that make the load (default: by the measurement)")
	if mode.Name == "history" {
		flags.StringVar(&o.Store, "store", "", "an empty database on a server, mysql://… or postgres://…, whose tables are emptied afterwards (default SQLite)")
		flags.IntVar(&o.Messages, "messages", 0, "how many messages are asked about (default 10 million)")
		flags.BoolVar(&o.Quick, "quick", false, "all of it small, in about half a minute")
	}
	if len(mode.Variants) > 0 {
		flags.StringSliceVar(&o.Variants, "variants", nil, "only these: "+strings.Join(mode.Variants, ", "))
	}
	return cmd
}

func (c *command) measure(ctx context.Context, mode string, o bench.Options) error {
	if o.URL = c.remoteURL(); o.URL != "" {
		var err error
		if o.Token, err = c.readToken(); err != nil {
			return err
		}
		if o.Token == "" || o.DevicesAddr == "" {
			return usagef("to measure the hub at %s an admin token (--token-file) and its device port (--devices) are needed", o.URL)
		}
	}
	o.Logger = slog.New(slog.NewTextHandler(c.Stderr, nil))
	defer c.makeRoom()()
	report, err := bench.Run(ctx, mode, o)
	if report != nil && len(report.Rows) > 0 {
		if c.flags.json {
			err = errors.Join(err, c.printJSON(report))
		} else {
			err = errors.Join(err, report.WriteText(c.Stdout))
		}
	}
	if err != nil {
		return err
	}
	for _, goal := range report.Goals {
		if !goal.Met {
			return failureError{errors.New("a limit was missed: " + goal.Name)}
		}
	}
	return nil
}

// benchSinkCommand is the child that bench compares a hub with.
func (c *command) benchSinkCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:    "sink",
		Short:  "Accept devices and discard what they send, as the limit to compare with",
		Hidden: true,
		Args:   between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer c.makeRoom()()
			return bench.RunSink(cmd.Context(), listen, c.Stdin, c.Stdout)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:0", "the address to listen on")
	return cmd
}

// benchWriterCommand is the child that «bench live» compares a hub with.
func (c *command) benchWriterCommand() *cobra.Command {
	o := bench.WriterOptions{Listen: "127.0.0.1:0"}
	cmd := &cobra.Command{
		Use:    "live-writer",
		Short:  "Write the frames of a file to all who connect, as the limit to compare with",
		Hidden: true,
		Args:   between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.RunWriter(cmd.Context(), o, c.Stdout)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.File, "file", "", "whole WebSocket frames")
	flags.IntVar(&o.Sockets, "sockets", 1, "how many readers to wait for")
	flags.IntVar(&o.Block, "block", 0, "bytes a write; 0: a write a frame")
	flags.DurationVar(&o.For, "for", 0, "how long to write")
	return cmd
}

// benchHistoryEngineCommand is the child that «bench history» measures.
func (c *command) benchHistoryEngineCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "history-engine",
		Short:  "Do one job with the history engine in this process",
		Hidden: true,
		Args:   between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return bench.RunHistoryEngine(cmd.Context(), c.Stdin, c.Stdout)
		},
	}
}
