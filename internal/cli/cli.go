package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"signalbox/internal/app"
)

// Program is the command line with all that it touches, so that a test can run it whole.
type Program struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Env holds NAME=value as os.Environ gives it.
	Env []string
	// Name is how the program was called, for lines to copy; empty for signalbox.
	Name string
	// Version is what the build set; empty for a build that set none.
	Version string

	completing time.Duration // how long the question of a shell may take; 0 is completionTime
}

// Main runs the command line of this process and returns its exit code. The first
// interrupt or SIGTERM ends a command in order, the second ends the process at once.
func Main(version string) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	go func() {
		select {
		case s := <-signals:
			signal.Stop(signals) // before all else: the next signal finds the system's own handling
			cancel(fmt.Errorf("the signal %s", s))
		case <-ctx.Done():
		}
	}()
	p := Program{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.Environ(), Name: os.Args[0], Version: version}
	return p.Run(ctx, os.Args[1:])
}

// Run runs one command line, args without the program's name, and returns the exit code.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	p := Program{Stdin: stdin, Stdout: stdout, Stderr: stderr, Env: env}
	return p.Run(ctx, args)
}

// Run runs one command line, args without the program's name, and returns the exit code.
// It returns when the command has ended and nothing of it runs on.
func (p *Program) Run(ctx context.Context, args []string) int {
	c := &command{Program: p}
	root := c.root()
	root.SetArgs(prepareArgs(args))
	root.SetIn(p.Stdin)
	root.SetErr(p.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !c.started {
		// Cobra found a fault before the command began: an unknown command, flag or argument.
		if _, ok := errors.AsType[usageError](err); !ok {
			err = usageError{err}
		}
	}
	if err != nil {
		p.report(cmd, err)
	}
	return exitCode(err)
}

func (p *Program) env(name string) string { return app.Environ(p.Env, name) }

// command is what the commands of one run share.
type command struct {
	*Program
	// started is set when a command's own work begins.
	started bool
	flags   globalFlags
}

// globalFlags are understood by every command.
type globalFlags struct {
	data      string
	url       string
	token     string
	tokenFile string
	config    string
	json      bool
}

const rootLong = `Signalbox is a device hub: boxes, stations, sensors and actuators connect to it,
it keeps what they report and carries commands to them.

The commands below work on the hub that runs on the data directory (--data), or on
the directory itself when none runs, or on a remote hub (--url and --token).

` + exitCodeHelp

func (c *command) root() *cobra.Command {
	root := &cobra.Command{
		Use:     "signalbox",
		Short:   "A device hub in one program",
		Version: c.version(),
		Long:    strings.TrimSpace(rootLong),
		Example: `  signalbox serve
  signalbox device add esp01 --type box
  signalbox watch esp01
  signalbox send esp01 servo1 90 --wait`,
		Args:              noSuchCommand,
		RunE:              showHelp,
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: c.begin,
	}
	flags := root.PersistentFlags()
	flags.StringVar(&c.flags.data, "data", "", "the data directory (default ./data, or SIGNALBOX_DATA)")
	flags.StringVar(&c.flags.url, "url", "", "a remote hub's address, such as http://hub.local:8080 (or SIGNALBOX_URL)")
	flags.StringVar(&c.flags.token, "token", "", "the token for --url; SIGNALBOX_TOKEN keeps it out of the list of processes")
	flags.StringVar(&c.flags.tokenFile, "token-file", "", "a file that holds the token for --url")
	flags.StringVar(&c.flags.config, "config", "", "the configuration file (default DATA/signalbox.yaml if it exists)")
	flags.BoolVar(&c.flags.json, "json", false, "print JSON instead of text for people")
	_ = root.MarkPersistentFlagDirname("data")
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml")
	_ = root.MarkPersistentFlagFilename("token-file")
	root.SetFlagErrorFunc(flagFault)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)

	root.AddGroup(
		&cobra.Group{ID: "hub", Title: "The hub:"},
		&cobra.Group{ID: "manage", Title: "Devices, people and programs:"},
		&cobra.Group{ID: "use", Title: "Telemetry and commands:"},
		&cobra.Group{ID: "tools", Title: "Tools:"},
	)
	root.SetHelpCommandGroupID("tools")
	root.SetCompletionCommandGroupID("tools")
	inGroup(root, "hub", c.serveCommand(), c.configCommand(), c.importCommand(), c.exportCommand(), c.backupCommand(), c.restoreCommand())
	inGroup(root, "manage", c.deviceCommand(), c.userCommand(), c.tokenCommand(), c.forwarderCommand())
	inGroup(root, "use", c.sendCommand(), c.commandCommand(), c.watchCommand(), c.historyCommand(), c.replayCommand())
	inGroup(root, "tools", c.simCommand(), c.benchCommand(), c.versionCommand())
	root.SetOut(c.Stdout) // which the next line takes
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.Args, completion.RunE = noSuchCommand, showHelp
	}
	return root
}

// inGroup adds commands to root under a heading of its help.
func inGroup(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = group
		root.AddCommand(cmd)
	}
}

// begin runs before each command, after its arguments were found right.
func (c *command) begin(cmd *cobra.Command, _ []string) error {
	c.started = true
	return emptyFlag(cmd.Flags())
}

// parent makes a command that only holds others.
func parent(use, short, long, example string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Example: example, Args: noSuchCommand, RunE: showHelp}
	cmd.AddCommand(children...)
	return cmd
}

func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// noSuchCommand refuses arguments of a command that only holds others.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	hint := "it has " + strings.Join(names, ", ")
	if near := app.Nearest(args[0], names); near != "" {
		hint = fmt.Sprintf("the nearest is %q", near)
	}
	return usagef("%s has no command %q; %s", cmd.CommandPath(), args[0], hint)
}

// waitingThreads is by how much serve and bench raise GOMAXPROCS.
const waitingThreads = 2

// makeRoom raises GOMAXPROCS above the number of processors, unless it was set by hand. A
// thread that waits in the kernel (for the disk, in an fsync; in bench for thousands of
// sockets) holds its share of it for a while, and on two processors that would stop half
// of all other work. It gives back what was before.
func (c *command) makeRoom() (restore func()) {
	if c.env("GOMAXPROCS") != "" {
		return func() {}
	}
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before + waitingThreads)
	return func() { runtime.GOMAXPROCS(before) }
}
