package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"signalbox/client"
)

type replayFlags struct {
	types    []string
	from, to string
	speed    string
	pace     string
	shift    bool
	into     intoFlags
}

// replayGoodbye is how long an interrupted replay may take to be stopped.
const replayGoodbye = 2 * time.Second

// replayFlush is the longest a message may wait to be shown while others follow it.
const replayFlush = 100 * time.Millisecond

func (c *command) replayCommand() *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay [DEVICE…]",
		Short: "Play what devices reported again, as it came",
		Long: `Plays the stored telemetry of all devices or of those named, in the order in which it came and at the
speed at which it came, faster or slower (--speed 10, --speed 0.5), or as fast as possible (--speed max).
Nothing of it is stored again. Times are those of «signalbox history»; without --from it begins with the
first message. --shift moves all times so that the first message is of now. Imported telemetry came all at
once: --pace time plays it by its own times. With --json each message is one line, marked as replayed.

On a terminal keys are taken while it plays, and a line at the bottom tells where it is: space pauses and
goes on, the arrows right and left move by ten seconds (of playing, when it is faster than it happened),
+ and - make it faster and slower, q ends it.

With --to-forwarder and --to-viewers the hub plays it by itself, into a forwarder or to the original live
viewers, and this command waits for the end. Where the format has no room to say that it is a replay, as
that of the viewers, it is refused without --unmarked.`,
		Example: `  signalbox replay esp01 --from 2h
  signalbox replay --type box --from '2026-03-01 12:00' --to '2026-03-01 13:00' --speed 10
  signalbox replay esp01 esp02 --from 7d --speed max --json
  signalbox replay --from 1h --to-forwarder site --speed max`,
		ValidArgsFunction: c.completeDevices,
		RunE: func(cmd *cobra.Command, args []string) error {
			if slices.Contains(args, "") {
				return usagef("an argument is empty: %s", cmd.UseLine())
			}
			q, err := f.query(args, time.Now())
			if err != nil {
				return err
			}
			ctx := cmd.Context()
			if f.into.given() {
				return c.within(ctx, needHub, func(r *reach) error { return c.replayInto(ctx, r, q) })
			}
			return c.withHub(ctx, func(r *reach) error { return c.replay(ctx, r, q) })
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&f.types, "type", nil, "only devices of this type; may be repeated")
	flags.StringVar(&f.from, "from", "", "messages at or after this time")
	flags.StringVar(&f.to, "to", "", "messages before this time")
	flags.StringVar(&f.speed, "speed", "1", "how often as fast as it happened, or max")
	flags.StringVar(&f.pace, "pace", "received", "received: paced as messages came; time: by their own times")
	flags.BoolVar(&f.shift, "shift", false, "move all times, so that the first message is of now")
	flags.StringVar(&f.into.forwarder, "to-forwarder", "", "the hub plays it into this forwarder")
	flags.BoolVar(&f.into.viewers, "to-viewers", false, "the hub plays it to the original live viewers")
	flags.BoolVar(&f.into.unmarked, "unmarked", false, "with these: allow a format that cannot say that it is a replay")
	completeFlag(cmd, "type", inList(c.types))
	completeFlag(cmd, "to-forwarder", func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return c.completeForwarders(cmd, nil, begun)
	})
	completeFlag(cmd, "speed", fixed([]string{"1", "10", "max"}))
	completeFlag(cmd, "pace", fixed(paces()))
	return cmd
}

func paces() []string { return []string{"received", "time"} }

func (f *replayFlags) query(devices []string, now time.Time) (q client.ReplayQuery, err error) {
	q = client.ReplayQuery{
		Devices: devices, Types: f.types, Shifted: f.shift, Pace: f.pace,
		IntoForwarder: f.into.forwarder, IntoViewers: f.into.viewers, Unmarked: f.into.unmarked,
	}
	if err := f.into.check(); err != nil {
		return q, err
	}
	if err := oneOf("pace", f.pace, paces()); err != nil {
		return q, err
	}
	if q.Speed, err = parseSpeed(f.speed); err != nil {
		return q, err
	}
	if q.From, err = (historyFlags{}).moment("from", f.from, now); err != nil {
		return q, err
	}
	if q.To, err = (historyFlags{}).moment("to", f.to, now); err != nil {
		return q, err
	}
	if !q.From.IsZero() && !q.To.IsZero() && !q.From.Before(q.To) {
		return q, usagef("--from %s is not before --to %s", f.from, f.to)
	}
	return q, nil
}

// parseSpeed reads 10, 10x, 0.5 or max, which is 0.
func parseSpeed(text string) (float64, error) {
	if text == "max" {
		return 0, nil
	}
	speed, err := strconv.ParseFloat(strings.TrimRight(text, "x×"), 64)
	if err != nil || !(speed > 0) || math.IsInf(speed, 0) {
		return 0, usagef("--speed %s is no speed; allowed are numbers above 0 (1, 10, 0.5) and max", text)
	}
	return speed, nil
}

// replay plays until the end. An interrupted one is stopped, so that it takes nobody's place.
func (c *command) replay(ctx context.Context, r *reach, q client.ReplayQuery) error {
	made, err := r.StartReplay(ctx, q)
	if err != nil {
		return err
	}
	playing, interrupt := context.WithCancel(ctx)
	defer interrupt()
	events, err := r.PlayReplay(playing, made.ID)
	if err == nil {
		keys := c.newStage(ctx, r, &made, interrupt)
		err = c.showReplay(playing, r, events, keys)
		err = errors.Join(err, keys.close())
	}
	if err != nil {
		goodbye, cancel := context.WithTimeout(context.WithoutCancel(ctx), replayGoodbye)
		defer cancel()
		_ = r.StopReplay(goodbye, made.ID) // it would end by itself in a minute
	}
	return err
}

// replayJSON is a message of a replay as --json prints it.
type replayJSON struct {
	eventJSON
	Replay client.ReplayMark `json:"replay"`
}

// showReplay prints what is played; keys is nil when there is no terminal.
func (c *command) showReplay(ctx context.Context, r *reach, events func(yield func(client.ReplayEvent, error) bool), keys *stage) error {
	to := c.Stdout
	if keys != nil {
		to = keys.line
	}
	out := bufio.NewWriterSize(to, 64<<10)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	w := &watcher{command: c, v2: make(map[string]bool), paint: c.paint()}
	p := w.paint
	lines := newLineFlusher(out)
	defer lines.stop()
	for e, err := range events {
		keys.event(&e)
		switch {
		case err != nil:
			return errors.Join(lines.flush(), err)
		case e.Kind == "replay" && e.State == "ended":
			if err := errors.Join(lines.flush(), keys.close()); err != nil {
				return err
			}
			return c.replayEnded(&e)
		case e.Kind != "telemetry":
			continue
		}
		var sent envelope
		if !c.flags.json {
			sent = w.envelope(ctx, r, &e.Event)
		}
		err = lines.write(func() error {
			if c.flags.json {
				return encoder.Encode(replayJSON{
					eventJSON{Kind: e.Kind, Position: e.Position, Device: e.Device, Received: e.Received, Time: e.Time, Object: e.Object}, e.Replay,
				})
			}
			_, err := out.WriteString(p.dim(e.Time.Local().Format("2006-01-02 15:04:05.000")) + " " + p.cyan(padded(clean(e.Device), deviceColumn)) + " " + p.fieldsText(e.Object, sent) + "\n")
			return err
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(lines.flush(), ctx.Err())
}

func (c *command) replayEnded(e *client.ReplayEvent) error {
	switch {
	case e.Reason == "failed":
		return errors.New("the replay failed; the hub's log says why")
	case e.Reason != "done":
		c.notef("The replay was ended: %s.\n", e.Reason)
	case e.Sent == 0 && !c.flags.json:
		c.notef("There is no telemetry of these devices and that time.\n")
	case !c.flags.json:
		c.notef("The replay has ended; messages: %d.\n", e.Sent)
	}
	return nil
}
