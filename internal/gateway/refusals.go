package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
	"unicode/utf8"

	"signalbox"
	"signalbox/internal/auth"
)

const (
	// refusalEvery is how often the log tells of one name and address.
	refusalEvery = time.Minute
	// maxRefusals bounds the names and addresses told apart, maxRefusalsHere those of one
	// address; what is beyond goes into a line for the address, or into one for all.
	maxRefusals     = 256
	maxRefusalsHere = 16
	// maxNameBytes cuts a name that no device can have.
	maxNameBytes = signalbox.MaxNameLen * utf8.UTFMax
	// refusalSweep is how often run looks what is due.
	refusalSweep = 5 * time.Second
)

// refusals tells the log of what was refused, seldom enough for a board that tries again
// twice a second, and for somebody who tries names.
type refusals struct {
	logger *slog.Logger

	mu   sync.Mutex
	told map[refusal]*told
	here map[netip.Addr]int // names in told, by address
}

// refusalKind is what was refused.
type refusalKind uint8

const (
	refusedLogin refusalKind = iota
	refusedTopic
	refusedPayload
	refusedCommand
)

// first and further write the line of a first refusal, and that of further ones.
func (k refusalKind) first(l *slog.Logger, with []any) {
	switch k {
	case refusedLogin:
		l.Warn("a device's login was refused; further ones like it are told once a minute", with...)
	case refusedTopic:
		l.Warn("a client published to a topic that is not its own; further ones like it are told once a minute", with...)
	case refusedPayload:
		l.Warn("a client's message was refused; further ones like it are told once a minute", with...)
	case refusedCommand:
		l.Warn("a command that a client published was refused; further ones like it are told once a minute", with...)
	}
}

func (k refusalKind) further(l *slog.Logger, with []any) {
	switch k {
	case refusedLogin:
		l.Warn("further logins of a device were refused", with...)
	case refusedTopic:
		l.Warn("further messages on topics that are not the client's own were refused", with...)
	case refusedPayload:
		l.Warn("further messages of a client were refused", with...)
	case refusedCommand:
		l.Warn("further commands that a client published were refused", with...)
	}
}

// reasonNoPassword is that of a user name which came without a password and holds no secret.
const reasonNoPassword = "no_password"

// refusal is what is told apart: the name is empty for the further ones of an address, and
// the address is the zero value for those of further addresses.
type refusal struct {
	kind    refusalKind
	name    string
	address netip.Addr
}

type told struct {
	at     time.Time
	more   int // since then
	reason string
	topic  string
}

func (r *refusals) init(logger *slog.Logger) {
	r.logger, r.told, r.here = logger, make(map[refusal]*told), make(map[netip.Addr]int)
}

// refused notes a refused login.
func (r *refusals) refused(name []byte, address netip.Addr, reason string, now time.Time) {
	r.note(refusal{refusedLogin, public(name), address}, reason, "", now)
}

// public is a name that a client gave, for the log: not too long, and no token, which some
// clients send in its place.
func public(name []byte) string {
	if bytes.HasPrefix(name, []byte(auth.TokenPrefix)) {
		return auth.TokenPrefix + "…"
	}
	return string(name[:min(len(name), maxNameBytes)])
}

// note notes what was refused; topic may be empty.
func (r *refusals) note(key refusal, reason, topic string, now time.Time) {
	address := key.address
	r.mu.Lock()
	t := r.told[key]
	for t == nil {
		switch {
		case key.name != "" && r.here[address] >= maxRefusalsHere:
			key.name = ""
		case key.address.IsValid() && len(r.told) >= maxRefusals:
			key = refusal{kind: key.kind}
		default:
			first := told{at: now, reason: reason, topic: topic}
			r.told[key] = &first
			r.here[key.address]++
			line := first
			r.mu.Unlock()
			r.tell(key, &line)
			return
		}
		t = r.told[key]
	}
	t.more++
	t.reason, t.topic = reason, topic
	r.mu.Unlock()
}

// tell writes a line; reason and topic are those of the latest refusal.
func (r *refusals) tell(key refusal, t *told) {
	with := []any{"reason", t.reason}
	if key.name != "" {
		who := "client"
		if key.kind == refusedLogin {
			who = "device"
		}
		with = append(with, who, key.name)
	}
	if t.topic != "" {
		with = append(with, "topic", t.topic)
	}
	if key.address.IsValid() {
		with = append(with, "address", key.address)
	}
	if key.kind == refusedLogin && t.reason == reasonNoPassword {
		with = append(with, "expected", "the device's name as user name and its secret as password; of firmware that sends a user name alone: NAME:SECRET as that")
	}
	if t.more > 0 {
		key.kind.further(r.logger, append(with, "refused", t.more, "since", t.at.UTC().Format(time.RFC3339)))
		return
	}
	key.kind.first(r.logger, with)
}

// due tells of what was refused since it was told last, and forgets where nothing was.
func (r *refusals) due(now time.Time, all bool) {
	type line struct {
		refusal
		told
	}
	var lines []line
	r.mu.Lock()
	for key, t := range r.told {
		if !all && now.Sub(t.at) < refusalEvery {
			continue
		}
		if t.more > 0 {
			lines = append(lines, line{key, *t})
			t.at, t.more = now, 0
			continue
		}
		delete(r.told, key)
		if r.here[key.address]--; r.here[key.address] <= 0 {
			delete(r.here, key.address)
		}
	}
	r.mu.Unlock()
	for _, l := range lines {
		r.tell(l.refusal, &l.told)
	}
}

// run tells what is due until ctx ends, and then the rest.
func (r *refusals) run(ctx context.Context) {
	tick := time.NewTicker(refusalSweep)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			r.due(now, false)
		case <-ctx.Done():
			r.due(time.Now(), true)
			return
		}
	}
}
