package gateway

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/tidwall/gjson"

	"signalbox"
	"signalbox/internal/broker"
	"signalbox/internal/wire"
	"signalbox/internal/wire/packet"
)

const (
	// submitters is how many commands that clients publish are submitted at a time, and
	// maxSubmissions how many wait for that; with more, connections are not read for a while.
	submitters     = 8
	maxSubmissions = 256
)

// submission is one command that a program published, on its way to the command road. The
// connection is not read until it is done.
type submission struct {
	req  signalbox.CommandRequest
	done atomic.Bool
	err  error // valid when done
}

// submit takes a command that a program publishes on signalbox/<device>/command. Submitting
// waits for the disk, so that it is done elsewhere, and the message comes again until it is.
func (c *mqttConn) submit(t *broker.Taking) broker.Verdict {
	if c.guest == nil || !c.guest.scope.Allows(signalbox.ScopeCommand) {
		t.Reason, t.Words = packet.NotAuthorized, "to command devices a token needs the scope command"
		return broker.Refused
	}
	job := c.guest.job
	if job == nil {
		return c.beginSubmit(t)
	}
	if !job.done.Load() {
		return broker.Later
	}
	c.guest.job = nil
	t.Quiet = true
	if job.err == nil {
		c.door.stats.CommandsSubmitted.Add(1)
		return broker.Pass
	}
	c.door.stats.CommandsRefused.Add(1)
	t.Reason, t.Words = refusalOf(job.err), wordsOf(job.err)
	c.note(refusedCommand, signalbox.CodeOf(job.err), t.Message.Topic)
	return broker.Refused
}

func (c *mqttConn) beginSubmit(t *broker.Taking) broker.Verdict {
	device, rest, ok := wire.SplitNative(string(t.Message.Topic))
	if !ok || rest != topicCommand {
		t.Reason, t.Words = packet.NotAuthorized, "of a device's topics programs publish to command alone"
		return broker.Refused
	}
	req, code, words := readCommand(t.Message.Payload)
	if code != "" {
		c.wrong(t, code, words, 0)
		return broker.Refused
	}
	req.Device, req.CreatedBy = device, c.guest.name
	job := &submission{req: req}
	select {
	case c.door.submits <- job:
		c.guest.job = job
	default: // they are busy
	}
	return broker.Later
}

// readCommand reads a command as part C has it, or without type and id. A value that is no
// string is taken as it is spelled; expires gives it time to wait; an id makes repeating safe.
func readCommand(body []byte) (req signalbox.CommandRequest, code, words string) {
	var f wire.Frame
	if !wire.ValidText(body) || wire.Scan(body, wire.Limits{}, &f) != nil {
		return req, "not_an_object", "A command is a JSON object."
	}
	name := gjson.GetBytes(body, "command")
	if name.Type != gjson.String {
		return req, "invalid_command", "A command needs its name under command, as a string."
	}
	req.Name = name.Str
	if value := gjson.GetBytes(body, "value"); value.Exists() && value.Type != gjson.Null {
		text := wire.Spelled(value)
		req.Value = &text
	}
	if id, ok := wire.Text(f.ID); ok {
		req.IdempotencyKey = string(id)
	}
	if expires := gjson.GetBytes(body, "expires"); expires.Exists() && expires.Type != gjson.Null {
		at, ok := wire.Uint([]byte(expires.Raw))
		ttl := time.Until(time.UnixMilli(int64(at))) //nolint:gosec // Uint gives at most 2^63-1
		if !ok || ttl <= 0 {
			return req, "invalid_expires", "expires must be a time to come, in Unix milliseconds."
		}
		req.TTL = min(ttl, signalbox.MaxCommandTTL)
	}
	return req, "", ""
}

// refusalOf is what PUBACK and PUBREC say of a command that was not taken (3.4.2.1).
func refusalOf(err error) packet.Reason {
	switch signalbox.KindOf(err) {
	case signalbox.KindInvalid, signalbox.KindTooLarge:
		return packet.PayloadFormatInvalid
	case signalbox.KindNotFound:
		return packet.TopicNameInvalid
	case signalbox.KindLimited:
		return packet.QuotaExceeded
	case signalbox.KindConflict: // offline, disabled, not listening
		return packet.ImplementationError
	default:
		return packet.UnspecifiedError
	}
}

// wordsOf is what an outsider may be told of err; empty: nothing.
func wordsOf(err error) string {
	if e, ok := errors.AsType[*signalbox.Error](err); ok && e.Kind != signalbox.KindInternal {
		return e.Message
	}
	return ""
}

var errStopping = errors.New("the hub is stopping")

// runSubmits submits until ctx ends; what is left then is refused.
func (m *MQTT) runSubmits(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			for {
				select {
				case job := <-m.submits:
					job.err = errStopping
					job.done.Store(true)
				default:
					return
				}
			}
		case job := <-m.submits:
			_, job.err = m.parts.Commands.Submit(ctx, job.req)
			job.done.Store(true)
		}
	}
}
