package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
)

func (c *command) forwarderCommand() *cobra.Command {
	return parent("forwarder", "Send what comes in on to other computers",
		`A forwarder sends what devices report on to another computer, as it comes: over TCP, UDP or WebSocket, as
webhooks (CloudEvents), or to an MQTT broker. What it could not send yet waits in the hub's log on disk.
Those of the configuration (forward.forwarders) are shown here too, and are changed there. A target on a
private, loopback or link-local address is refused unless the setting forward.allow lists it.`,
		`  signalbox forwarder add site tcp://203.0.113.7:9000 --type station
  signalbox forwarder add hook https://example.org/in --ask-secret
  signalbox forwarder list
  signalbox forwarder dead hook`,
		c.forwarderListCommand(), c.forwarderShowCommand(), c.forwarderAddCommand(), c.forwarderChangeCommand(), c.forwarderRemoveCommand(),
		c.forwarderPauseCommand("pause", "Let forwarders send nothing for a while; what comes waits", "paused", (*client.Hub).PauseForwarder),
		c.forwarderPauseCommand("resume", "Let paused forwarders go on", "goes on", (*client.Hub).ResumeForwarder),
		c.deadCommand(), c.resendCommand(), c.dropCommand())
}

func (c *command) forwarderListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List forwarders and how they are",
		Example: "  signalbox forwarder list\n  signalbox forwarder list --json",
		Args:    between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				t, p := newTable("NAME", "TO", "STATE", "BEHIND", "SENT", "DEAD", "FAULT"), c.paint()
				return printList(c, whole(r.Forwarders(cmd.Context())), t, func(f client.Forwarder) {
					s := &f.Status
					t.add(map[int]cellStyle{2: p.ofForwarder(s.State)}, f.Name, f.To, forwarderState(r, &f), strconv.FormatInt(s.Behind, 10), strconv.FormatInt(s.Sent, 10), strconv.FormatInt(s.Dead, 10), cutText(s.Fault, faultColumns))
				})
			})
		},
	}
}

// faultColumns is how much of a fault a table shows; «forwarder show» has all of it.
const faultColumns = 60

// cutText gives the beginning of a text that is longer.
func cutText(text string, columns int) string {
	if cut := []rune(text); len(cut) > columns {
		return string(cut[:columns-1]) + "…"
	}
	return text
}

// mustAsk refuses to go on where nobody can be asked whether what is lost may go.
func (c *command) mustAsk(yes bool) error {
	if _, ok := terminal(c.Stdin); !ok && !yes {
		return usagef("there is no terminal to ask whether this shall go; add --yes")
	}
	return nil
}

// forwarderState is a forwarder's state in words.
func forwarderState(r *reach, f *client.Forwarder) string {
	if !r.alive && f.Status.State != "paused" {
		return "no hub runs"
	}
	return strings.ReplaceAll(f.Status.State, "_", " ")
}

func (p paint) ofForwarder(state string) cellStyle {
	switch state {
	case "flowing", "listening":
		return p.green
	case "waiting":
		return p.red
	default:
		return p.yellow
	}
}

func (c *command) forwarderShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "show NAME",
		Short:             "Show a forwarder: what it does, and how it is",
		Example:           "  signalbox forwarder show site",
		Args:              between(1, 1),
		ValidArgsFunction: c.completeForwarder,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.withHub(cmd.Context(), func(r *reach) error {
				f, err := r.Forwarder(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return c.printForwarder(r, &f)
			})
		},
	}
}

// gapsText says how often a forwarder found that something was dropped.
func gapsText(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10) + " (retention had dropped entries that were still to be sent; how many is not known)"
}

// printForwarder tells all of a forwarder.
func (c *command) printForwarder(r *reach, f *client.Forwarder) error {
	if c.flags.json {
		return c.printJSON(f)
	}
	s := &f.Status
	rows := [][2]string{
		{"name", f.Name},
		{"to", f.To},
		{"state", forwarderState(r, f)},
		{"fault", s.Fault},
		{"fault at", timeText(s.FaultAt)},
		{"behind", strconv.FormatInt(s.Behind, 10)},
		{"sent", strconv.FormatInt(s.Sent, 10)},
		{"settled", strconv.FormatInt(s.Settled, 10)},
		{"redelivered", countText(s.Redelivered)},
		{"failed", countText(s.Failed)},
		{"skipped", countText(s.Skipped)},
		{"gaps", gapsText(s.Gaps)},
		{"dead letters", countText(s.Dead)},
		{"dead dropped", countText(s.DeadDropped)},
		{"reconnects", countText(s.Reconnects)},
		{"receivers", strings.Join(s.Receivers, ", ")},
		{"devices", strings.Join(f.Devices, ", ")},
		{"types", strings.Join(f.Types, ", ")},
		{"kinds", strings.Join(f.Kinds, ", ")},
		{"fields", strings.Join(f.Fields, ", ")},
		{"format", f.Format},
		{"template", f.Template},
		{"field", f.Field},
		{"timeout", f.Timeout},
		{"allow", strings.Join(f.Allow, ", ")},
		{"topic", f.Topic},
		{"qos", countText(int64(f.QoS))},
		{"username", f.Username},
		{"client id", f.ClientID},
		{"version", f.Version},
		{"parallel", countText(int64(f.Parallel))},
		{"attempts", countText(int64(f.Attempts))},
		{"content type", f.ContentType},
		{"secrets", strings.Join(f.Secrets, ", ")},
	}
	if f.Queue != nil {
		rows = append(rows, [2]string{"queue", fmt.Sprintf("%d entries, %s", f.Queue.MaxEntries, f.Queue.MaxAge)})
	}
	if f.Backoff != nil {
		rows = append(rows, [2]string{"backoff", f.Backoff.Min + " to " + f.Backoff.Max})
	}
	for _, flag := range []struct {
		name string
		on   bool
	}{{"ack", f.Ack}, {"retain", f.Retain}, {"sequence", f.Sequence}} {
		if flag.on {
			rows = append(rows, [2]string{flag.name, "true"})
		}
	}
	by := cmp.Or(f.CreatedBy, "-")
	if f.FromFile {
		by = "the configuration"
	}
	rows = append(rows, [2]string{"set by", by}, [2]string{"since", timeText(f.CreatedAt)})
	for _, row := range rows {
		if row[1] == "" {
			continue
		}
		if err := c.printf("%s %s\n", c.paint().dim(padded(row[0], 14)), strings.ReplaceAll(clean(row[1]), "\n", " ")); err != nil {
			return err
		}
	}
	return nil
}

// countText leaves 0 out.
func countText(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func (c *command) forwarderRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:               "rm NAME…",
		Aliases:           []string{"remove"},
		Short:             "Remove forwarders, with what waits for them",
		Long:              "Removes forwarders, their places in the log and their dead letters. On a terminal it asks first; elsewhere it needs --yes.",
		Example:           "  signalbox forwarder rm site\n  signalbox forwarder rm site hook --yes",
		Args:              between(1, -1),
		ValidArgsFunction: c.completeForwarders,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.mustAsk(yes); err != nil {
				return err
			}
			if err := c.confirm(cmd.Context(), yes, "Remove "+strings.Join(args, ", ")+", and what waits there?"); err != nil {
				return err
			}
			return c.forEachName(cmd.Context(), args, "removed", func(ctx context.Context, r *reach, name string) error {
				return r.RemoveForwarder(ctx, name)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (c *command) forwarderPauseCommand(use, short, done string, do func(h *client.Hub, ctx context.Context, name string) (client.Forwarder, error)) *cobra.Command {
	return &cobra.Command{
		Use:               use + " NAME…",
		Short:             short,
		Example:           "  signalbox forwarder " + use + " site",
		Args:              between(1, -1),
		ValidArgsFunction: c.completeForwarders,
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.forEachName(cmd.Context(), args, done, func(ctx context.Context, r *reach, name string) error {
				_, err := do(r.Hub, ctx, name)
				return err
			})
		},
	}
}

// completeForwarders completes the names of forwarders that are not among args yet.
func (c *command) completeForwarders(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	list := func(ctx context.Context, r *reach) ([]client.Forwarder, error) { return r.Forwarders(ctx) }
	describe := func(f client.Forwarder) (word, about string) { return f.Name, clean(f.To) }
	words, directive := listed(c, list, describe)(cmd, args, begun)
	return slices.DeleteFunc(words, func(w string) bool {
		name, _, _ := strings.Cut(w, "\t")
		return slices.Contains(args, name)
	}), directive
}

// completeForwarder completes one.
func (c *command) completeForwarder(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	return firstOnly(c.completeForwarders)(cmd, args, begun)
}

// targetHint says what to do about a target that the hub refused.
func targetHint(err error) error {
	if signalbox.CodeOf(err) != "target_not_allowed" {
		return err
	}
	return hintedError{err, "Such an address is allowed by whoever may write the hub's configuration: list its network in forward.allow, or set the forwarder\n" +
		"there (forward.forwarders). The hub reads its configuration when it starts."}
}
