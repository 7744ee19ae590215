package cli

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/client"
)

type watchFlags struct {
	kinds, types, fields []string
	every                time.Duration
	after                string
	state                bool
	count                int
}

const (
	// deviceColumn is how wide the column of devices is, unless a name is longer.
	deviceColumn = 14
	// minEvery and maxEvery bound --every.
	minEvery = 100 * time.Millisecond
	maxEvery = time.Hour
)

func (c *command) watchCommand() *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch [DEVICE…]",
		Short: "Show live what devices report and what becomes of commands",
		Long: `Shows telemetry, presence, commands and alerts as they happen, of all devices or of those named, until
it is interrupted. When the hub goes away it waits for it and goes on where it was: what happened
meanwhile is shown, nothing twice. Where something is missing it says so, and how much. With --json
each event is one line, with a cursor: --after CURSOR shows what came after that event.`,
		Example: `  signalbox watch
  signalbox watch esp01 esp02
  signalbox watch --type box --kind presence
  signalbox watch --state --fields temp,hum --every 1s
  signalbox watch esp01 --json --count 10
  signalbox watch --json --after k3f9q2-1042`,
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd, args); err != nil {
				return err
			}
			w := &watcher{command: c, v2: make(map[string]bool), paint: c.paint(), left: f.count, bounded: f.count > 0, ready: f.state || f.after != ""}
			w.query = client.Watch{
				Devices: args, Kinds: f.kinds, Types: f.types, Fields: f.fields, Every: f.every, After: f.after, Snapshot: f.state, Connection: w.connection,
			}
			return w.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.kinds, "kind", nil, "only telemetry, presence, command or alert; may be repeated")
	flags.StringSliceVar(&f.types, "type", nil, "only devices of this type; may be repeated")
	flags.StringSliceVar(&f.fields, "fields", nil, "only these fields of telemetry, separated by commas; messages with none of them are left out")
	flags.DurationVar(&f.every, "every", 0, "at most one message of each device in this time, the newest: 100ms to 1h")
	flags.StringVar(&f.after, "after", "", "begin behind the event with this cursor (of --json); what was missed comes first")
	flags.BoolVar(&f.state, "state", false, "begin with the present state of the devices")
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

// check refuses what makes no sense.
func (f *watchFlags) check(cmd *cobra.Command, args []string) error {
	switch {
	case f.count < 0:
		return usagef("--count %d is negative; 0 means without end", f.count)
	case cmd.Flags().Changed("every") && (f.every < minEvery || f.every > maxEvery):
		return usagef("--every %s: allowed are durations from 100ms to 1h", f.every)
	case slices.Contains(args, ""):
		return usagef("an argument is empty: %s", cmd.UseLine())
	}
	for _, kind := range f.kinds {
		if err := oneOf("kind", kind, kinds()); err != nil {
			return err
		}
	}
	return nil
}

// watcher shows one stream, over as many connections as it takes.
type watcher struct {
	*command
	paint   paint
	query   client.Watch
	bounded bool
	left    int  // events until the end, if bounded
	ready   bool // ready is of interest
	// v2 says for the devices of which it is known whether they speak protocol version 2.
	v2 map[string]bool
}

// errEnough ends a watch that has shown what was asked for.
var errEnough = errors.New("enough")

// run shows events until ctx ends. A hub that is not there at the start is an error; one
// that goes away is waited for.
func (w *watcher) run(ctx context.Context) error {
	r, err := w.reachHub(ctx, needHub)
	if err != nil {
		return err
	}
	defer func() { _ = r.close() }() // the stream has ended already
	events, err := r.Follow(ctx, w.query)
	if err == nil {
		err = w.show(ctx, r, events)
	}
	if ctx.Err() != nil || errors.Is(err, errEnough) {
		return nil // to be interrupted is the way to end it
	}
	return err
}

// show shows the events until there are no more, or enough.
func (w *watcher) show(ctx context.Context, r *reach, events iter.Seq2[client.Event, error]) error {
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

// connection tells that the hub went away, and that it is back.
func (w *watcher) connection(lost error) {
	if lost != nil {
		w.notef("The hub went away; waiting for it.\n")
	} else {
		w.notef("The hub is back; going on.\n")
	}
}

func (w *watcher) event(ctx context.Context, r *reach, e *client.Event) (err error) {
	happened := e.Kind != "ready" && e.Kind != "lagged" && e.Kind != "state"
	switch {
	case e.Kind == "ready" && !w.ready:
		return nil
	case w.flags.json:
		err = w.printJSON(eventJSON{
			Kind: e.Kind, Cursor: e.Cursor, Position: e.Position, Device: e.Device, Received: e.Received, Time: e.Time,
			Object: e.Object, Presence: e.Presence, Command: e.Command, State: e.State,
			Missed: e.Missed, After: e.After, Until: e.Until, Reason: e.Reason,
		})
	case e.Kind == "ready":
	case e.Kind == "lagged":
		w.notef("%s\n", missed(e))
	default:
		err = w.print(e, w.envelope(ctx, r, e))
	}
	if err != nil {
		return errors.Join(errEnough, err) // nobody reads any more
	}
	if !happened {
		return nil
	}
	if w.left--; w.bounded && w.left <= 0 {
		return errEnough
	}
	return nil
}

// eventJSON is an event as --json prints it.
type eventJSON struct {
	Kind     string                    `json:"kind"`
	Cursor   string                    `json:"cursor,omitempty"`
	Position signalbox.Position        `json:"position,omitempty"`
	Device   string                    `json:"device,omitempty"`
	Received time.Time                 `json:"received,omitzero"`
	Time     time.Time                 `json:"time,omitzero"`
	Object   json.RawMessage           `json:"object,omitempty"`
	Presence *signalbox.PresenceChange `json:"presence,omitempty"`
	Command  *signalbox.Command        `json:"command,omitempty"`
	State    *signalbox.State          `json:"state,omitempty"`
	Missed   int64                     `json:"missed,omitempty"`
	After    string                    `json:"after,omitempty"`
	Until    string                    `json:"until,omitempty"`
	Reason   string                    `json:"reason,omitempty"`
}

// missed says in words what an event lagged tells.
func missed(e *client.Event) string {
	many := "Events are"
	switch {
	case e.Missed == 1:
		many = "1 event is"
	case e.Missed > 1:
		many = strconv.FormatInt(e.Missed, 10) + " events are"
	}
	switch e.Reason {
	case "too_far":
		return many + " missing: more was missed than the hub shows afterwards; «signalbox history» has them."
	case "lost":
		return many + " lost that may have been shown: the hub was killed before they were on disk, or restored from an older backup."
	case "unknown_cursor":
		return "Events may be missing: the hub does not know the cursor; it is another hub's, or too old."
	case "dropped":
		return "Events may be missing: retention (history.keep) has dropped some of what was missed; the rest follows."
	default:
		return many + " missing: this terminal is too slow for them; «signalbox history» has them."
	}
}

// print prints an event for people.
func (w *watcher) print(e *client.Event, sent envelope) error {
	p := w.paint
	device, at := e.Device, e.Received
	if e.State != nil {
		device, at = e.State.Device, e.State.Received
	}
	when := at.Local().Format("15:04:05.000")
	if at.IsZero() {
		when = "            " // a device that has reported nothing yet
	}
	return w.printf("%s %s %s\n", p.dim(when), p.cyan(padded(clean(device), deviceColumn)), p.event(e, sent))
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
	if e.State != nil {
		e = &client.Event{Device: e.State.Device, Object: e.State.Telemetry, Time: e.State.Time}
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
	case e.State != nil:
		return strings.TrimSpace(p.presence(e.State.Presence)(string(e.State.Presence)) + " " + p.fieldsText(e.State.Telemetry, sent))
	case e.Presence == nil:
		return p.fieldsText(e.Object, sent)
	}
	presence := p.presence(e.Presence.Presence)(string(e.Presence.Presence))
	if more := strings.TrimSpace(e.Presence.Address + " " + e.Presence.Reason); more != "" {
		return presence + " " + p.dim(clean(more))
	}
	return presence
}
