package cli

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
)

const (
	// commandsShown is how many commands a list has when nobody says how many.
	commandsShown = 20
	// maxCommandsShown bounds --last.
	maxCommandsShown = 100_000
	// commandsPage is how many are asked for at a time.
	commandsPage = 1000
)

func (c *command) commandCommand() *cobra.Command {
	return parent("command", "List and show commands that were sent, take back those that wait",
		"Looks at commands after they were sent: how far each came and when, and what its device answered.\n«signalbox send» sends one, «signalbox watch --kind command» shows live what becomes of them.",
		"  signalbox command list esp01\n  signalbox command show 01K2Q4N0A8R7F5T3XJ9V6C1BWE\n  signalbox command cancel 01K2Q4N0A8R7F5T3XJ9V6C1BWE",
		c.commandListCommand(), c.commandShowCommand(), c.commandCancelCommand())
}

func (c *command) commandListCommand() *cobra.Command {
	last := commandsShown
	cmd := &cobra.Command{
		Use:     "list [DEVICE]",
		Aliases: []string{"ls"},
		Short:   "List the latest commands of a device, or of all, newest first",
		Example: `  signalbox command list
  signalbox command list esp01 --last 100
  signalbox command list esp01 --json | jq '.[] | select(.state == "failed")'`,
		Args:              between(0, 1),
		ValidArgsFunction: firstOnly(c.completeDevices),
		RunE: func(cmd *cobra.Command, args []string) error {
			if last < 1 || last > maxCommandsShown {
				return usagef("--last %d: allowed is 1 to %d", last, maxCommandsShown)
			}
			device := ""
			if len(args) > 0 {
				device = args[0]
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				p, t := c.paint(), newTable("MADE", "DEVICE", "COMMAND", "VALUE", "STATE", "ANSWER", "ID")
				return printList(c, some(allCommands(cmd.Context(), r, device, last), last), t, func(sent signalbox.Command) {
					state := func(string) string { return p.state(sent.State) }
					t.add(map[int]cellStyle{4: state}, timeText(sent.CreatedAt), sent.Device, sent.Name, valueText(&sent), string(sent.State), answerText(&sent), sent.ID)
				})
			})
		},
	}
	cmd.Flags().IntVar(&last, "last", commandsShown, "how many at most")
	return cmd
}

// allCommands walks through the commands of a device, or of all if it is empty, newest first, in pages that
// suit somebody who wants so many.
func allCommands(ctx context.Context, r *reach, device string, want int) iter.Seq2[signalbox.Command, error] {
	return func(yield func(signalbox.Command, error) bool) {
		for cursor := ""; ; {
			page, err := r.Commands(ctx, device, min(want, commandsPage), cursor)
			if err != nil {
				yield(signalbox.Command{}, err)
				return
			}
			for _, sent := range page.Items {
				if !yield(sent, nil) {
					return
				}
			}
			if cursor = page.Next; cursor == "" {
				return
			}
		}
	}
}

func (c *command) commandShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show a command: its states with their times, and what the device answered",
		Long: `Shows a command, whatever became of it: the exit code is 0 also for one that failed. The ID is what
«signalbox send» and «signalbox command list» show.`,
		Example:           "  signalbox command show 01K2Q4N0A8R7F5T3XJ9V6C1BWE",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				sent, err := r.Command(cmd.Context(), args[0], 0)
				if err != nil {
					return err
				}
				return c.showCommand(&sent)
			})
		},
	}
}

func (c *command) commandCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "cancel ID",
		Short:             "Take back a command that still waits for its device",
		Example:           "  signalbox command cancel 01K2Q4N0A8R7F5T3XJ9V6C1BWE",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				sent, err := r.Cancel(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.printEntry(&sent, c.paint().command(&sent))
			})
		},
	}
}

// showCommand tells all of a command.
func (c *command) showCommand(sent *signalbox.Command) error {
	if c.flags.json {
		return c.printJSON(sent)
	}
	p := c.paint()
	var b strings.Builder
	line := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-12s%s\n", what, value)
		}
	}
	line("ID", sent.ID)
	line("Device", p.bold(clean(sent.Device)))
	line("Command", p.bold(clean(sent.Name)))
	line("Value", clean(valueText(sent)))
	line("State", p.state(sent.State))
	line("Made", timeText(sent.CreatedAt))
	line("Made by", clean(sent.CreatedBy))
	line("Key", clean(sent.IdempotencyKey))
	if sent.State == signalbox.CommandQueued {
		line("Waits until", timeText(sent.ExpiresAt))
	}
	line("Sent", momentText(sent.SentAt, sent.CreatedAt))
	line("Delivered", momentText(sent.DeliveredAt, sent.CreatedAt))
	if sent.Already {
		line("Confirmed", "the value was there before")
	} else {
		line("Confirmed", momentText(sent.ConfirmedAt, sent.CreatedAt))
	}
	line("Ended", momentText(sent.EndedAt, sent.CreatedAt))
	if sent.Protocol != signalbox.ProtocolNone {
		line("Protocol", protocolText(sent.Protocol))
	}
	if sent.TimeoutMs > 0 && !sent.State.Ended() {
		line("Timeout", (time.Duration(sent.TimeoutMs) * time.Millisecond).String())
	}
	line("Answer", clean(answerText(sent)))
	return c.printf("%s", b.String())
}

// state writes a command's state.
func (p paint) state(s signalbox.CommandState) string {
	switch s {
	case signalbox.CommandSucceeded:
		return p.green(string(s))
	case signalbox.CommandFailed, signalbox.CommandExpired, signalbox.CommandTimedOut, signalbox.CommandCanceled:
		return p.red(string(s))
	default:
		return p.yellow(string(s))
	}
}

// valueText is a command's value; empty for none.
func valueText(sent *signalbox.Command) string {
	if sent.Value == nil {
		return ""
	}
	return *sent.Value
}

// answerText is what the device said of a command: its result, or why it failed.
func answerText(sent *signalbox.Command) string {
	return strings.TrimSpace(string(sent.Result) + " " + sent.Error)
}

// momentText writes a time and how long after the beginning it was; empty for none.
func momentText(t, began time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (after %s)", timeText(t), t.Sub(began).Round(time.Millisecond))
}
