package gateway

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
	"unicode/utf8"

	"signalbox"
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

// refusals tells the log of refused logins, seldom enough for a board that tries again
// twice a second, and for somebody who tries names.
type refusals struct {
	logger *slog.Logger

	mu   sync.Mutex
	told map[refusal]*told
	here map[netip.Addr]int // names in told, by address
}

// refusal is what is told apart: the name is empty for the further ones of an address, and
// the address is the zero value for those of further addresses.
type refusal struct {
	name    string
	address netip.Addr
}

type told struct {
	at     time.Time
	more   int // since then
	reason string
}

func (r *refusals) init(logger *slog.Logger) {
	r.logger, r.told, r.here = logger, make(map[refusal]*told), make(map[netip.Addr]int)
}

// refused notes a refused login.
func (r *refusals) refused(name []byte, address netip.Addr, reason string, now time.Time) {
	r.mu.Lock()
	key := refusal{string(name[:min(len(name), maxNameBytes)]), address}
	t := r.told[key]
	for t == nil {
		switch {
		case key.name != "" && r.here[address] >= maxRefusalsHere:
			key.name = ""
		case key.address.IsValid() && len(r.told) >= maxRefusals:
			key = refusal{}
		default:
			r.told[key] = &told{at: now, reason: reason}
			r.here[key.address]++
			r.mu.Unlock()
			r.tell(key, &told{at: now, reason: reason})
			return
		}
		t = r.told[key]
	}
	t.more++
	t.reason = reason
	r.mu.Unlock()
}

// tell writes a line; the reason is that of the latest refusal.
func (r *refusals) tell(key refusal, t *told) {
	with := []any{"reason", t.reason}
	if key.name != "" {
		with = append(with, "device", key.name)
	}
	if key.address.IsValid() {
		with = append(with, "address", key.address)
	}
	switch {
	case t.more > 0:
		r.logger.Warn("further logins of a device were refused", append(with, "refused", t.more, "since", t.at.UTC().Format(time.RFC3339))...)
	default:
		r.logger.Warn("a device's login was refused; further ones like it are told once a minute", with...)
	}
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
