package command

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/session"
)

// CommitPatience is how long Submit, SubmitBulk and Cancel wait for the disk at most.
const CommitPatience = 10 * time.Second

// Outcome is what became of one request of a bulk: the command, or why there is none.
type Outcome struct {
	Command signalbox.Command
	Err     error
}

// Submit takes a command on and returns when it is on disk; delivery goes on by itself.
// The command returned is as it was recorded: sent when the device is online, queued when
// it is not and the request has a ttl. A repeated idempotency key gives the first command
// as it is now.
//
// When ctx ends before the commit, or CommitPatience is over, the command is withdrawn, its
// idempotency key is free again, and the error is KindUnavailable, unless it was written to
// the device meanwhile: then it is returned as it is, without an error.
//
// Errors: KindInvalid for a bad name, value, ttl, timeout or key, and command_unsuitable for a
// name or value that the device's connection has no words for; KindNotFound
// device_not_found; KindConflict device_disabled, device_offline, device_not_listening and
// idempotency_mismatch;
// KindLimited too_many_commands; KindUnavailable log_full, log_failing, not_committed,
// store_unavailable and stopping. With none of these has anything been recorded, except
// with not_committed a canceled command.
func (r *Road) Submit(ctx context.Context, req signalbox.CommandRequest) (signalbox.Command, error) {
	ctx, cancel := context.WithTimeout(ctx, CommitPatience)
	defer cancel()
	t, err := r.accept(ctx, &req, history.Now)
	if err != nil {
		return signalbox.Command{}, r.refused(err)
	}
	return r.settle(ctx, t)
}

// SubmitBulk takes many commands on, in their order, and returns when all are on disk,
// which takes one commit as a rule. Each request has its own outcome, at its own place; one
// that is refused does not touch the others. More than Config.MaxBulk requests are all
// refused with KindTooLarge. CommitPatience begins when all are taken on.
func (r *Road) SubmitBulk(ctx context.Context, reqs []signalbox.CommandRequest) []Outcome {
	outcomes := make([]Outcome, len(reqs))
	if len(reqs) > r.cfg.MaxBulk {
		err := signalbox.Errorf(signalbox.KindTooLarge, "bulk_too_large", "%d commands in one request; at most %d are allowed", len(reqs), r.cfg.MaxBulk)
		for i := range outcomes {
			outcomes[i].Err = r.refused(err)
		}
		return outcomes
	}
	tickets := make([]ticket, len(reqs))
	for i := range reqs {
		urgency := history.Soon
		if i == len(reqs)-1 {
			urgency = history.Now
		}
		tickets[i], outcomes[i].Err = r.accept(ctx, &reqs[i], urgency)
	}
	ctx, cancel := context.WithTimeout(ctx, CommitPatience)
	defer cancel()
	for i := range outcomes {
		if outcomes[i].Err != nil {
			outcomes[i].Err = r.refused(outcomes[i].Err)
			continue
		}
		outcomes[i].Command, outcomes[i].Err = r.settle(ctx, tickets[i])
	}
	return outcomes
}

// A ticket is a command that was taken on and waits for its commit.
type ticket struct {
	c   signalbox.Command
	e   *entry             // nil: c comes from the store
	pos signalbox.Position // to wait for
	own bool               // this request made it; a repeat must not withdraw it
}

// accept does all of a submission but the waiting for its commit.
func (r *Road) accept(ctx context.Context, req *signalbox.CommandRequest, u history.Urgency) (ticket, error) {
	if err := check(req); err != nil {
		return ticket{}, err
	}
	id, ok := r.devices.Find(req.Device)
	if !ok {
		return ticket{}, signalbox.Errorf(signalbox.KindNotFound, "device_not_found", "there is no device named %q", req.Device)
	}
	if req.IdempotencyKey != "" {
		first, found, release, err := r.first(ctx, id, req)
		if err != nil || found {
			return first, err
		}
		defer release()
	}
	switch {
	case r.stopping.Load():
		return ticket{}, signalbox.Errorf(signalbox.KindUnavailable, "stopping", "the hub is stopping and takes no more commands")
	case r.devices.Disabled(id):
		return ticket{}, signalbox.Errorf(signalbox.KindConflict, "device_disabled", "the device %q is disabled; enable it, or approve it if it waits for that, to send it commands", req.Device)
	}
	if err := r.log.Err(); err != nil {
		return ticket{}, signalbox.Wrap(signalbox.KindUnavailable, "log_failing", err, "the hub cannot write to its disk at present, so the command was not taken")
	}
	return r.place(id, req, u)
}

// place gives the command its ID, its place in the device's lane and its place in the log.
func (r *Road) place(id signalbox.DeviceID, req *signalbox.CommandRequest, u history.Urgency) (ticket, error) {
	var object []byte
	known := r.listening(id) != nil
	if known {
		object = r.devices.LatestObject(id)
	}
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	l := sh.lane(id)
	defer sh.tidy(id)
	s := r.listening(id)
	if deaf := r.sessions.Get(id); req.TTL == 0 && s == nil && deaf != nil {
		return ticket{}, notListening(deaf, req.Device)
	}
	if req.TTL == 0 && (s == nil || !known) {
		return ticket{}, signalbox.Errorf(signalbox.KindConflict, "device_offline",
			"the device %q is offline; a ttl greater than 0 lets the command wait for it", req.Device)
	}
	if s != nil {
		if err := s.Fits(&signalbox.Command{Device: req.Device, Name: req.Name, Value: req.Value}); err != nil {
			return ticket{}, err
		}
	}
	if r.held.Load() >= int64(r.cfg.MaxActive) {
		return ticket{}, signalbox.Errorf(signalbox.KindLimited, "too_many_commands",
			"the hub is busy with %d commands; no more are allowed at once", r.cfg.MaxActive)
	}

	e := &entry{c: r.newCommand(id, req)}
	var replaced []*entry
	if req.Replace {
		for _, old := range l.waiting {
			if old.c.Name == req.Name {
				replaced = append(replaced, old)
			}
		}
	}
	if n := len(l.waiting) + len(l.open) - len(replaced); n >= r.cfg.MaxActivePerDevice {
		return ticket{}, signalbox.Errorf(signalbox.KindLimited, "too_many_commands",
			"%d commands for the device %q wait or are unanswered; at most %d are allowed", n, req.Device, r.cfg.MaxActivePerDevice)
	}
	if err := r.enter(l, e, s, known, object, u, replaced); err != nil {
		return ticket{}, err
	}
	for _, old := range replaced {
		r.end(l, old, signalbox.CommandCanceled, u) // the entry of e says so already; this one is their own
	}
	r.admit(sh, e)
	r.stats.submitted.Add(1)
	return ticket{c: e.c, e: e, pos: e.pos, own: true}, nil
}

// notListening says why the device of s, which is there, takes no command.
func notListening(s *session.Session, device string) error {
	if s.Protocol == signalbox.ProtocolMapped {
		return signalbox.Errorf(signalbox.KindConflict, "device_not_listening",
			"the device %q takes no commands: none of the mappings by which it came says how commands go out", device)
	}
	return signalbox.Errorf(signalbox.KindConflict, "device_not_listening",
		"the device %q is connected but has not subscribed to its commands (signalbox/%s/command); a ttl greater than 0 lets the command wait for that", device, device)
}

// enter sends e, or queues it when the device is away. On an error it was not recorded.
func (r *Road) enter(l *lane, e *entry, s *session.Session, known bool, object []byte, u history.Urgency, replaced []*entry) error {
	if s != nil && known {
		for _, old := range replaced {
			l.waiting = without(l.waiting, old)
		}
		err := errWaiting
		if r.flush(l, s, object) {
			err = r.send(l, e, s, object, u, replaced)
		}
		if err != nil {
			l.waiting = merge(replaced, l.waiting)
			r.kick(l, e.c.To) // they must not wait for the next connection
			return refusedByLog(err)
		}
		return nil
	}
	pos, err := r.write(u, e, &e.c, replaced, nil)
	if err != nil {
		return refusedByLog(err)
	}
	r.saved(e, pos)
	l.waiting = append(l.waiting, e)
	r.arm(e)
	if s != nil {
		r.kick(l, e.c.To) // it has just come
	}
	return nil
}

func (r *Road) newCommand(id signalbox.DeviceID, req *signalbox.CommandRequest) signalbox.Command {
	t := now()
	timeout := req.Timeout
	if timeout == 0 {
		timeout = r.cfg.DefaultTimeout
	}
	c := signalbox.Command{
		ID: r.ids.next(uint64(t.UnixMilli())), //nolint:gosec // the clock is past 1970
		To: id, Device: req.Device, Name: req.Name, Value: req.Value, State: signalbox.CommandQueued,
		CreatedBy: req.CreatedBy, IdempotencyKey: req.IdempotencyKey, CreatedAt: t,
		TimeoutMs: max(timeout.Milliseconds(), 1),
	}
	if req.Value != nil {
		value := *req.Value // the caller's may change
		c.Value = &value
	}
	if req.TTL > 0 {
		c.ExpiresAt = t.Add(max(req.TTL.Truncate(time.Millisecond), time.Millisecond))
	}
	return c
}

// settle waits for t's commit.
func (r *Road) settle(ctx context.Context, t ticket) (signalbox.Command, error) {
	if t.e == nil {
		return t.c, nil
	}
	err := r.log.Wait(ctx, t.pos)
	if err == nil && t.own {
		return t.c, nil
	}
	sh, e := r.shard(t.c.To), t.e
	sh.mu.Lock()
	defer sh.mu.Unlock()
	switch {
	case e.withdrawn: // by the request that made it
		return signalbox.Command{}, signalbox.Wrap(signalbox.KindUnavailable, "not_committed", err,
			"the command %s, first sent under this idempotency key, could not be recorded in time and was withdrawn; the key may be used again", t.c.ID)
	case err == nil:
		return t.c, nil
	case !t.own:
		return signalbox.Command{}, signalbox.Wrap(signalbox.KindUnavailable, "not_committed", err,
			"the command %s, first sent under this idempotency key, is not on disk yet", t.c.ID)
	case r.log.Committed() >= t.pos:
		return t.c, nil // both came at once
	case e.written || e.gone || e.c.State != signalbox.CommandQueued && e.c.State != signalbox.CommandSent:
		return e.c, nil
	}
	r.withdraw(sh, e)
	r.stats.refuse("not_committed")
	return signalbox.Command{}, signalbox.Wrap(signalbox.KindUnavailable, "not_committed", err,
		"the command could not be recorded in time; it was withdrawn and will not be sent")
}

// withdraw cancels e, which is not committed and was not written, and frees its idempotency
// key as soon as the log knows. No row of it is in the table yet, so none holds the key.
// The caller holds sh.
func (r *Road) withdraw(sh *shard, e *entry) {
	e.withdrawn = true
	e.key, e.c.IdempotencyKey = e.c.IdempotencyKey, ""
	e.unsend()
	r.end(sh.lane(e.c.To), e, signalbox.CommandCanceled, history.Soon)
	sh.tidy(e.c.To)
}

// first looks for the command that an idempotency key stands for. Without one the key is
// reserved for this request until release is called.
func (r *Road) first(ctx context.Context, id signalbox.DeviceID, req *signalbox.CommandRequest) (t ticket, found bool, release func(), err error) {
	sh, ref := r.shard(id), keyRef{id, req.IdempotencyKey}
	for {
		sh.mu.Lock()
		if e := sh.keys[ref]; e != nil {
			withdrawn := e.withdrawn
			t = ticket{c: e.c, e: e, pos: e.pos}
			sh.mu.Unlock()
			if withdrawn {
				return t, false, nil, signalbox.Errorf(signalbox.KindUnavailable, "log_full",
					"the first command under the idempotency key %q was withdrawn, which waits for the disk; try again in a moment", ref.key)
			}
			return t, true, nil, same(&t.c, req)
		}
		busy := sh.reserved[ref]
		if busy == nil {
			break
		}
		sh.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return t, false, nil, signalbox.Wrap(signalbox.KindUnavailable, "not_committed", ctx.Err(),
				"another request with the idempotency key %q is under way; nothing was recorded for this one", ref.key)
		}
	}
	done := make(chan struct{})
	sh.reserved[ref] = done
	sh.mu.Unlock()
	release = func() {
		sh.mu.Lock()
		delete(sh.reserved, ref)
		sh.mu.Unlock()
		close(done)
	}
	c, err := r.store.CommandByKey(ctx, id, ref.key)
	switch {
	case err == nil:
		release()
		return ticket{c: *c}, true, nil, same(c, req)
	case signalbox.KindOf(err) == signalbox.KindNotFound:
		return t, false, release, nil
	default:
		release()
		return t, false, nil, signalbox.Wrap(signalbox.KindUnavailable, "store_unavailable", err, "the idempotency key could not be looked up; nothing was recorded")
	}
}

// same reports a repeated key whose request asks for something else.
func same(c *signalbox.Command, req *signalbox.CommandRequest) error {
	if c.Name == req.Name && (c.Value == nil) == (req.Value == nil) && (c.Value == nil || *c.Value == *req.Value) {
		return nil
	}
	return signalbox.Errorf(signalbox.KindConflict, "idempotency_mismatch",
		"the idempotency key %q was used for this device with another command or value (command %s)", req.IdempotencyKey, c.ID)
}

// check holds a request to the limits.
func check(req *signalbox.CommandRequest) error {
	if n := len(req.Name); n == 0 || n > signalbox.MaxCommandNameLen {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_command", "the command's name has %d bytes; allowed are 1 to %d", n, signalbox.MaxCommandNameLen)
	}
	if err := checkText("command's name", req.Name); err != nil {
		return err
	}
	for _, r := range req.Name {
		if unicode.IsControl(r) {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_command", "the command's name %q holds the control character %U; allowed is any text without", req.Name, r)
		}
	}
	if req.Value != nil {
		if n := len(*req.Value); n > signalbox.MaxCommandValueLen {
			return signalbox.Errorf(signalbox.KindInvalid, "invalid_value", "the value has %d bytes; at most %d are allowed", n, signalbox.MaxCommandValueLen)
		}
		if err := checkText("value", *req.Value); err != nil {
			return err
		}
	}
	if n := len(req.IdempotencyKey); n > signalbox.MaxIdempotencyKeyLen {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_idempotency_key", "the idempotency key has %d bytes; at most %d are allowed", n, signalbox.MaxIdempotencyKeyLen)
	}
	if err := checkText("idempotency key", req.IdempotencyKey); err != nil {
		return err
	}
	if req.TTL < 0 || req.TTL > signalbox.MaxCommandTTL {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_ttl", "the ttl is %s; allowed are 0 (only if the device is online) to %s", req.TTL, signalbox.MaxCommandTTL)
	}
	if req.Timeout < 0 || req.Timeout > signalbox.MaxCommandTimeout {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_timeout", "the timeout is %s; allowed are 0 (the default) to %s", req.Timeout, signalbox.MaxCommandTimeout)
	}
	return nil
}

func checkText(what, s string) error {
	if !utf8.ValidString(s) {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_utf8", "the %s is not valid UTF-8", what)
	}
	return nil
}

// errWaiting says that older commands could not be marked as sent, so a newer may not be.
var errWaiting = fmt.Errorf("older commands of the device wait: %w", history.ErrFull)

func refusedByLog(err error) error {
	if _, ok := errors.AsType[*signalbox.Error](err); ok {
		return err // it says itself why: the hub is stopping
	}
	return signalbox.Wrap(signalbox.KindUnavailable, "log_full", err, "too much waits for the disk at present, so the command was not taken; try again")
}

// merge puts two lists that are in order of submission into one.
func merge(a, b []*entry) []*entry {
	all := make([]*entry, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].c.ID < b[0].c.ID {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}
