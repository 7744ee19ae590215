package cli

import (
	"context"
	"errors"
	"time"

	"signalbox"
	"signalbox/client"
)

// intoLook is how often it is looked how far a replay is that the hub plays by itself.
const intoLook = 500 * time.Millisecond

// intoFlags are where the hub plays a replay by itself.
type intoFlags struct {
	forwarder string
	viewers   bool
	unmarked  bool
}

func (f *intoFlags) given() bool { return f.forwarder != "" || f.viewers }

func (f *intoFlags) check() error {
	switch {
	case f.forwarder != "" && f.viewers:
		return usagef("--to-forwarder and --to-viewers exclude each other")
	case f.unmarked && !f.given():
		return usagef("--unmarked goes with --to-forwarder or --to-viewers")
	default:
		return nil
	}
}

// replayInto has the hub play, and waits for the end. An interrupted one is stopped.
func (c *command) replayInto(ctx context.Context, r *reach, q client.ReplayQuery) error {
	made, err := r.StartReplay(ctx, q)
	if err != nil {
		if signalbox.CodeOf(err) == "replay_unmarked" {
			return hintedError{err, "With --unmarked it is played all the same."}
		}
		return err
	}
	if !c.flags.json {
		c.notef("The hub plays the replay %s into %s.\n", made.ID, clean(made.Into))
	}
	tick := time.NewTicker(intoLook)
	defer tick.Stop()
	for made.State != "ended" {
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), r.stopReplay(ctx, made.ID))
		case <-tick.C:
		}
		next, err := r.Hub.Replay(ctx, made.ID)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			made = next
		}
	}
	if c.flags.json {
		if err := c.printJSON(made); err != nil {
			return err
		}
	}
	if made.Reason == "failed" && made.Fault != "" {
		return errors.New("the replay failed: " + made.Fault)
	}
	return c.replayEnded(&client.ReplayEvent{Reason: made.Reason, Sent: made.Sent})
}

// stopReplay stops a replay though ctx has ended.
func (r *reach) stopReplay(ctx context.Context, id string) error {
	goodbye, cancel := context.WithTimeout(context.WithoutCancel(ctx), replayGoodbye)
	defer cancel()
	return r.StopReplay(goodbye, id)
}
