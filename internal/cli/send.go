package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"signalbox"
	"signalbox/client"
	"signalbox/internal/app"
)

// sendFlags are the options of a command.
type sendFlags struct {
	wait, ttl, timeout, key, kind string
	replace                       bool
}

const (
	// waitDefault is how long --wait alone waits.
	waitDefault = "30s"
	// waitAtOnce is how long one request may wait; longer waits ask again.
	waitAtOnce = 50 * time.Second
	// maxWait bounds --wait.
	maxWait = 24 * time.Hour
)

func (c *command) sendCommand() *cobra.Command {
	var f sendFlags
	cmd := &cobra.Command{
		Use:   "send DEVICE COMMAND [VALUE]",
		Short: "Send a command to a device, or to all devices of a type",
		Long: `Sends a command and tells how far it came. With --wait it waits until the command is settled: the
device has answered, or cannot (protocol version 1) and has been sent it. Without --ttl a command to a
device that is away is refused; with it, it waits in the queue that long.

With --type the command goes to all enabled devices of that type, and DEVICE is left out.

The exit code tells how it ended: 0 it succeeded, was sent or queued as asked; 6 the device answered
that it failed; 5 the device is away, or the command expired, timed out, or was not settled in time.`,
		Example: `  signalbox send esp01 servo1 90
  signalbox send esp01 servo1 90 --wait 5s
  signalbox send esp01 temperature -5
  signalbox send esp01 restart --ttl 1h
  signalbox send --type box light off`,
		ValidArgsFunction: c.completeSend,
		Args: func(cmd *cobra.Command, args []string) error {
			low := 2 // the value may be missing, or empty
			if f.kind != "" {
				low = 1
			}
			if slices.Contains(args[:min(low, len(args))], "") {
				return usagef("the name of the device or of the command is empty: %s", cmd.UseLine())
			}
			if f.kind != "" && len(args) == 0 {
				return usagef("the command is missing: signalbox send --type %s COMMAND [VALUE]", shellQuote(f.kind))
			}
			return count(cmd, args, low, low+1)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			device := ""
			if f.kind == "" {
				device, args = sentValue(args[0]), args[1:]
			}
			in, err := f.command(args)
			if err != nil {
				return err
			}
			wait, err := f.waitTime()
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			return c.withHub(ctx, func(r *reach) error {
				if f.kind != "" {
					return c.sendBulk(ctx, r, f.kind, in, wait)
				}
				return c.sendOne(ctx, r, device, in, wait)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.wait, "wait", "", "wait until the command is settled, at most this long (alone: "+waitDefault+")")
	flags.Lookup("wait").NoOptDefVal = waitDefault
	flags.StringVar(&f.ttl, "ttl", "", "how long it may wait for a device that is away, such as 1h (default: not at all)")
	flags.StringVar(&f.timeout, "timeout", "", "how long the device may take to answer (default: as the hub is configured)")
	flags.StringVar(&f.key, "key", "", "an idempotency key: sent again with the same key, nothing is sent twice")
	flags.BoolVar(&f.replace, "replace", false, "drop older queued commands of the same name")
	flags.StringVar(&f.kind, "type", "", "send to all enabled devices of this type")
	completeFlag(cmd, "type", c.completeType)
	return cmd
}

// command gives what is to be sent; args are the command and its value.
func (f sendFlags) command(args []string) (client.Send, error) {
	s := client.Send{Name: sentValue(args[0]), IdempotencyKey: f.key, Replace: f.replace}
	if len(args) > 1 {
		s.Value = new(sentValue(args[1]))
	}
	for name, d := range map[string]*time.Duration{"ttl": &s.TTL, "timeout": &s.Timeout} {
		text := f.ttl
		if name == "timeout" {
			text = f.timeout
		}
		if text == "" {
			continue
		}
		var err error
		if *d, err = app.ParseDuration(text); err != nil {
			return s, usagef("--%s %s is no duration: %w; allowed are such as 500ms, 30s, 1h or 7d", name, sentValue(text), err)
		}
	}
	return s, nil
}

func (f sendFlags) waitTime() (time.Duration, error) {
	if f.wait == "" {
		return 0, nil
	}
	if noUnit(f.wait) && f.wait != "0" {
		return 0, usagef("--wait %s lacks its unit; write --wait %ss for seconds. A command's value stands in front of --wait", f.wait, f.wait)
	}
	d, err := app.ParseDuration(f.wait)
	if err != nil || d > maxWait {
		return 0, usagef("--wait %s: allowed is a duration up to 24h, such as 5s", sentValue(f.wait))
	}
	return d, nil
}

func (c *command) sendOne(ctx context.Context, r *reach, device string, in client.Send, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	in.Wait = min(wait, waitAtOnce)
	sent, err := r.Send(ctx, device, in)
	if err != nil {
		switch {
		case signalbox.CodeOf(err) != "device_offline":
		case r.alive:
			c.notef("With --ttl, such as --ttl 1h, the command waits that long for the device.\n")
		default:
			c.notef("No hub runs on the data directory, so no device is connected; with --ttl the command would wait for one.\n")
		}
		return err
	}
	if err := c.settle(ctx, r, &sent, deadline); err != nil {
		return err
	}
	if err := c.printEntry(&sent, c.paint().command(&sent)); err != nil {
		return err
	}
	return commandError(&sent, wait > 0)
}

// settle asks again until the command is settled or the deadline is over.
func (c *command) settle(ctx context.Context, r *reach, command *signalbox.Command, deadline time.Time) error {
	for !command.Settled() {
		left := time.Until(deadline)
		if left <= 0 {
			return nil
		}
		var err error
		if *command, err = r.Command(ctx, command.ID, max(min(left, waitAtOnce), time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// command writes a command and its state on one line.
func (p paint) command(command *signalbox.Command) string {
	text := clean(command.Device) + ": " + clean(command.Name)
	if command.Value != nil {
		text += " " + clean(*command.Value)
	}
	text += " " + p.state(command.State)
	if len(command.Result) > 0 {
		text += " " + clean(string(command.Result))
	}
	if command.Error != "" {
		text += " " + clean(command.Error)
	}
	switch {
	case command.Already:
		text += ", the value was there before"
	case !command.ConfirmedAt.IsZero():
		text += ", confirmed by telemetry"
	}
	if command.State == signalbox.CommandSent && command.Protocol != signalbox.ProtocolNone && !command.Protocol.Answers() {
		text += p.dim(" (this device cannot answer)")
	}
	return text + p.dim("  "+command.ID)
}

// commandError maps the end of a command to an error, nil where all went as asked.
func commandError(command *signalbox.Command, waited bool) error {
	switch command.State {
	case signalbox.CommandFailed:
		text := command.Error
		if text == "" {
			text = "it gave no reason"
		}
		return deviceError{fmt.Sprintf("the device %s answered that %s failed: %s", command.Device, command.Name, text)}
	case signalbox.CommandExpired, signalbox.CommandTimedOut, signalbox.CommandCanceled:
		return signalbox.Errorf(signalbox.KindUnavailable, string(command.State), "the command %s to %s ended as %s", command.Name, command.Device, command.State)
	default:
		if waited && !command.Settled() {
			return signalbox.Errorf(signalbox.KindUnavailable, "not_settled", "the command is still %s; «signalbox command show %s» tells what has become of it", command.State, command.ID)
		}
		return nil
	}
}

// sendBulk sends to all devices of a type and tells what became of each; the error is that
// of the worst.
func (c *command) sendBulk(ctx context.Context, r *reach, kind string, in client.Send, wait time.Duration) error {
	deadline := time.Now().Add(wait)
	entries, err := r.SendType(ctx, kind, in)
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return signalbox.Errorf(signalbox.KindNotFound, "no_devices", "there is no enabled device of the type %q", kind)
	}
	bar := c.progress("commands", len(entries))
	defer bar.end()
	p, failed, late := c.paint(), 0, 0
	for i, e := range entries {
		bar.at(i)
		if e.Command == nil {
			late++
			if err := c.printEntry(e, p.red(clean(e.Device)+": "+clean(e.Message))); err != nil {
				return err
			}
			continue
		}
		if err := c.settle(ctx, r, e.Command, deadline); err != nil {
			return err
		}
		switch exitCode(commandError(e.Command, wait > 0)) {
		case ExitDevice:
			failed++
		case ExitUnavailable:
			late++
		}
		if err := c.printEntry(e, p.command(e.Command)); err != nil {
			return err
		}
	}
	switch n := len(entries); {
	case failed > 0:
		return deviceError{fmt.Sprintf("%d of %d devices answered that it failed; %d more were not reached", failed, n, late)}
	case late > 0:
		return signalbox.Errorf(signalbox.KindUnavailable, "not_all", "%d of %d devices were not reached", late, n)
	default:
		return nil
	}
}

// printEntry prints what became of one device's command, as JSON or as text.
func (c *command) printEntry(entry any, text string) error {
	if c.flags.json {
		return c.printJSON(entry)
	}
	return c.printf("%s\n", text)
}
