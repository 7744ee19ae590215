package auth

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// The defaults of BackoffConfig.
const (
	DefaultFreeFailures = 5
	DefaultBackoffBase  = time.Second
	// DefaultPeopleBackoff and DefaultDeviceBackoff are the longest waits.
	DefaultPeopleBackoff = 60 * time.Second
	DefaultDeviceBackoff = 30 * time.Second
	DefaultBackoffFade   = 15 * time.Minute
	DefaultBackoffSize   = 65536
)

// BackoffConfig tunes a Backoff; zeroes take the defaults.
type BackoffConfig struct {
	// Failures is how many failures begin a wait (5).
	Failures int
	// Base is the first wait (1 s); each further failure doubles it up to Max (60 s).
	Base, Max time.Duration
	// Fade is how long without a failure forgets them (15 min).
	Fade time.Duration
	// Size bounds what is remembered (65,536): half of it failing pairs and addresses,
	// half of it places that are known good, so that failing cannot push those out. The
	// longest unused goes first. An entry takes some 150 bytes.
	Size int
}

// Backoff slows down the guessing of people's passwords; devices have DeviceLogins. It
// counts failures per name-and-address and per address; an IPv6 address counts as its /64
// network. It allocates only while it grows, and every method is a few map lookups under
// one lock.
//
// Use: Delay before a credential is checked; if that gives a wait, refuse without
// checking. After the check, Fail or Succeed.
//
// Callers without an IP address (a Unix socket) are never delayed.
type Backoff struct {
	cfg   BackoffConfig
	seed  maphash.Seed
	start time.Time // with a monotonic reading, so that setting the clock changes no wait

	mu      sync.Mutex
	failing recent
	known   recent

	failures, refused atomic.Uint64
}

// NewBackoff makes an empty Backoff.
func NewBackoff(cfg BackoffConfig) *Backoff {
	if cfg.Failures <= 0 {
		cfg.Failures = DefaultFreeFailures
	}
	if cfg.Base <= 0 {
		cfg.Base = DefaultBackoffBase
	}
	if cfg.Max <= 0 {
		cfg.Max = DefaultPeopleBackoff
	}
	cfg.Max = max(cfg.Max, cfg.Base)
	if cfg.Fade <= 0 {
		cfg.Fade = DefaultBackoffFade
	}
	if cfg.Size <= 0 {
		cfg.Size = DefaultBackoffSize
	}
	half := max(cfg.Size/2, 2)
	return &Backoff{cfg: cfg, seed: maphash.MakeSeed(), start: time.Now(), failing: newRecent(half), known: newRecent(half)}
}

// place is a name at an address, or an address by itself (name 0). Names are kept as
// their hash under a random seed: nobody outside can make two of them meet.
type place struct {
	address [16]byte
	name    uint64
}

func (b *Backoff) places(name string, addr netip.Addr) (pair, address place) {
	return b.placesOf(maphash.String(b.seed, name), addr)
}

func (b *Backoff) placesOf(name uint64, addr netip.Addr) (pair, address place) {
	if addr = addr.Unmap(); addr.Is4() {
		address.address = addr.As16()
	} else {
		whole := addr.As16()
		copy(address.address[:8], whole[:8])
	}
	pair = address
	pair.name = name | 1
	return pair, address
}

// Delay gives how long attempts of name from addr are to be refused unchecked: 0 means
// check the credential now. Where name has succeeded before, the wait of the address is
// lifted, but not that of the pair: each guess at that name counts. A wait that is given
// counts as refused, and does not make the wait longer.
func (b *Backoff) Delay(name string, addr netip.Addr, now time.Time) time.Duration {
	if !addr.IsValid() {
		return 0
	}
	at := now.Sub(b.start)
	pair, address := b.places(name, addr)
	b.mu.Lock()
	ofPair, ofAddress := b.waitOf(pair, at), b.waitOf(address, at)
	if ofAddress > 0 && b.known.find(pair) != nil {
		ofAddress = 0
	}
	b.mu.Unlock()
	wait := max(ofPair, ofAddress)
	if wait > 0 {
		b.refused.Add(1)
	}
	return wait
}

func (b *Backoff) waitOf(p place, at time.Duration) time.Duration {
	e := b.failing.find(p)
	if e == nil {
		return 0
	}
	return min(max(e.until-at, 0), b.cfg.Max)
}

// Fail counts a wrong credential and gives the wait that now holds for name at addr,
// also where it is known good and Delay would give none. Failures during a wait do not
// make that wait longer.
func (b *Backoff) Fail(name string, addr netip.Addr, now time.Time) time.Duration {
	b.failures.Add(1)
	if !addr.IsValid() {
		return 0
	}
	at := now.Sub(b.start)
	pair, address := b.places(name, addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.fail(pair, at), b.fail(address, at))
}

func (b *Backoff) fail(p place, at time.Duration) time.Duration {
	e := b.failing.use(p)
	if at < e.until {
		return min(e.until-at, b.cfg.Max)
	}
	if e.count > 0 && at-e.last >= b.cfg.Fade {
		e.count = 0
	}
	e.count++
	e.last = at
	over := e.count - b.cfg.Failures
	if over < 0 {
		return 0
	}
	wait := b.cfg.Max
	if over < 32 && b.cfg.Base <= b.cfg.Max>>over {
		wait = b.cfg.Base << over
	}
	e.until = at + wait
	return wait
}

// Succeed notes a right credential: the failures of name at addr are forgotten, and the
// place is known good from now on.
func (b *Backoff) Succeed(name string, addr netip.Addr) {
	if !addr.IsValid() {
		return
	}
	pair, _ := b.places(name, addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failing.forget(pair)
	b.known.use(pair)
}

// Failures is how many wrong credentials were seen.
func (b *Backoff) Failures() uint64 { return b.failures.Load() }

// Refused is how many attempts were refused unchecked.
func (b *Backoff) Refused() uint64 { return b.refused.Load() }
