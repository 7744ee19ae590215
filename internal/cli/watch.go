package cli

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/client"
)

type watchFlags struct {
	kinds, types []string
	count        int
}

const (
	// watchRetry is how long watch waits before it looks for a lost hub again, doubling up
	// to watchRetryMax.
	watchRetry    = 500 * time.Millisecond
	watchRetryMax = 10 * time.Second
	// deviceColumn is how wide the column of devices is, unless a name is longer.
	deviceColumn = 14
)

func (c *command) watchCommand() *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch [DEVICE…]",
		Short: "Show live what devices report and what becomes of commands",
		Long: `Shows telemetry, presence and commands as they happen, of all devices or of those named, until it is
interrupted. When the hub goes away it waits for it and goes on; what happened meanwhile is in
«signalbox history». With --json each event is one line.`,
		Example: `  signalbox watch
  signalbox watch esp01 esp02
  signalbox watch --type box --kind presence
  signalbox watch esp01 --json --count 10`,
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.count < 0 {
				return usagef("--count %d is negative; 0 means without end", f.count)
			}
			for _, kind := range f.kinds {
				if err := oneOf("kind", kind, kinds()); err != nil {
					return err
				}
			}
			if slices.Contains(args, "") {
				return usagef("an argument is empty: %s", cmd.UseLine())
			}
			w := &watcher{command: c, v2: make(map[string]bool), paint: c.paint(), left: f.count, bounded: f.count > 0, query: client.Watch{Devices: args, Kinds: f.kinds, Types: f.types}}
			return w.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.kinds, "kind", nil, "only telemetry, presence, command or alert; may be repeated")
	flags.StringSliceVar(&f.types, "type", nil, "only devices of this type; may be repeated")
	flags.IntVar(&f.count, "count", 0, "stop after so many events; 0 means without end")
	completeFlag(cmd, "kind", fixedList(kinds()))
	completeFlag(cmd, "type", inList(c.types))
	return cmd
}

// kinds are the words for what the hub's log records.
func kinds() []string {
	var words []string
	for kind := signalbox.EntryTelemetry; kind <= signalbox.EntryAlert; kind++ {
		words = append(words, kind.String())
	}
	return words
}

// watcher shows one stream, over as many connections as it takes.
type watcher struct {
	*command
	paint   paint
	query   client.Watch
	bounded bool
	left    int // events until the end, if bounded
	heard   bool
	// v2 says for the devices of which it is known whether they speak protocol version 2.
	v2 map[string]bool
}

// errEnough ends a watch that has shown what was asked for.
var errEnough = errors.New("enough")

// run shows events until ctx ends. A hub that is not there at the start is an error; one
// that goes away is waited for.
func (w *watcher) run(ctx context.Context) error {
	wait := watchRetry
	for first := true; ; first = false {
		w.heard = false
		err := w.once(ctx)
		if ctx.Err() != nil {
			err = errEnough // to be interrupted is the way to end it
		}
		switch {
		case errors.Is(err, errEnough):
			return nil
		case first && !w.heard:
			return err
		case err != nil && !w.heard && !passing(err):
			return err
		}
		if w.heard {
			wait = watchRetry
			w.notef("The hub went away; waiting for it.\n")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, watchRetryMax)
	}
}

// passing says whether trying again can help.
func passing(err error) bool { return exitCode(err) == ExitUnavailable || exitCode(err) == ExitFailure }

// once shows one connection's events.
func (w *watcher) once(ctx context.Context) error {
	r, err := w.reachHub(ctx, needHub)
	if err != nil {
		return err
	}
	defer func() { _ = r.close() }() // the stream has ended already
	events, err := r.Stream(ctx, w.query)
	if err != nil {
		return err
	}
	w.heard = true
	for e, err := range events {
		if err == nil {
			err = w.event(ctx, r, &e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) event(ctx context.Context, r *reach, e *client.Event) (err error) {
	if w.flags.json {
		err = w.printJSON(eventJSON{
			Kind: e.Kind, Missed: e.Missed, Position: e.Position, Device: e.Device, Received: e.Received, Time: e.Time,
			Object: e.Object, Presence: e.Presence, Command: e.Command,
		})
	} else {
		err = w.show(e, w.envelope(ctx, r, e))
	}
	if err != nil {
		return errors.Join(errEnough, err) // nobody reads any more
	}
	if w.left--; w.bounded && w.left <= 0 {
		return errEnough
	}
	return nil
}

// eventJSON is an event as --json prints it.
type eventJSON struct {
	Kind     string                    `json:"kind"`
	Missed   int64                     `json:"missed,omitempty"`
	Position signalbox.Position        `json:"position,omitempty"`
	Device   string                    `json:"device,omitempty"`
	Received time.Time                 `json:"received,omitzero"`
	Time     time.Time                 `json:"time,omitzero"`
	Object   json.RawMessage           `json:"object,omitempty"`
	Presence *signalbox.PresenceChange `json:"presence,omitempty"`
	Command  *signalbox.Command        `json:"command,omitempty"`
}

// show prints an event for people.
func (w *watcher) show(e *client.Event, sent envelope) error {
	if e.Kind == "lagged" {
		w.notef("%d events were missed: this terminal is too slow for them.\n", e.Missed)
		return nil
	}
	p := w.paint
	return w.printf("%s %s %s\n", p.dim(e.Received.Local().Format("15:04:05.000")), p.cyan(padded(clean(e.Device), deviceColumn)), p.event(e, sent))
}

// envelope tells the readings of an event's telemetry from the keys of its protocol. The
// hub is asked once for a device of which neither its login nor the message tells.
func (w *watcher) envelope(ctx context.Context, r *reach, e *client.Event) envelope {
	switch {
	case e.Presence != nil:
		if e.Presence.Presence == signalbox.Online {
			w.v2[e.Device] = e.Presence.Protocol.Answers()
		}
		return envelope{}
	case e.Command != nil:
		return envelope{}
	}
	sent := envelopeOf(signalbox.ProtocolNone, e.Object, e.Time)
	v2, known := w.v2[e.Device]
	if !known && !sent.v2 && gjson.GetBytes(e.Object, "seq").Exists() {
		device, err := r.Device(ctx, e.Device)
		v2, known = device.Protocol.Answers(), err == nil // one more key is shown, at worst
	}
	if sent.v2 || known {
		w.v2[e.Device] = sent.v2 || v2
	}
	return envelope{v2: sent.v2 || v2}
}

// event writes what happened, without when and to whom.
func (p paint) event(e *client.Event, sent envelope) string {
	switch {
	case e.Command != nil:
		return "command " + strings.TrimPrefix(p.command(e.Command), clean(e.Command.Device)+": ")
	case e.Presence == nil:
		return p.fieldsText(e.Object, sent)
	}
	presence := p.presence(e.Presence.Presence)(string(e.Presence.Presence))
	if more := strings.TrimSpace(e.Presence.Address + " " + e.Presence.Reason); more != "" {
		return presence + " " + p.dim(clean(more))
	}
	return presence
}
