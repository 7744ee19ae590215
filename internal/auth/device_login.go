package auth

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	// DefaultDailyGuesses is how many different wrong secrets of a device are checked a day
	// from one address.
	DefaultDailyGuesses = 50
	// guessesKept is how many wrong secrets of a place are told apart from new ones.
	guessesKept = 8
	guessPeriod = 24 * time.Hour
	// addressGuesses is how many times the guesses at one device an address has at all those
	// that have not logged in there.
	addressGuesses = 10
)

// DeviceLoginsConfig tunes DeviceLogins; zeroes take the defaults.
type DeviceLoginsConfig struct {
	Backoff BackoffConfig
	// DailyGuesses bounds the different wrong secrets checked of one name from one address
	// (50): as many at once, and as many a day in the long run. It holds for chosen
	// secrets; generated ones cannot be guessed.
	DailyGuesses int
}

// DeviceLogins checks the secrets of devices and slows down guessing. It may be used from
// any goroutine; a check takes a microsecond or two under one lock, so that of many
// attempts at once each sees the failures of those before it.
//
// What holds, where «here» is an address (IPv6: a /64 network):
//
//   - After BackoffConfig.Failures failures of a name here, or of any names here, further
//     attempts are refused unchecked for Base, 2 Base, 4 Base … up to Max.
//   - A generated secret is never delayed where any device has logged in.
//   - A chosen secret is not delayed where its own device has logged in, and is spared the
//     wait of the address where any device has; both only while the day's guesses last.
//     A wrong secret that is sent again is no new guess, so a board with a wrong secret, or
//     a second one under the same name, does not use them up.
//   - When a name's guesses here are used up, one attempt of it from here is checked each
//     24 h / DailyGuesses, the right secret or not. Other addresses, and devices that are
//     connected, are not concerned. A changed secret begins with all guesses.
//   - All guesses made here together have ten times that budget; when it is used up, those
//     devices with a chosen secret wait for it that have not logged in here.
//
// So one address checks at most 2 DailyGuesses secrets of a device in any 24 h, and
// DailyGuesses a day in the long run: of the 10,000 secrets of four digits half a percent a
// day. Who commands many addresses has that many times more, because nothing counts per
// name alone: somebody else could then lock the device out everywhere. What the budgets
// cost: who guesses from the very address of a device with a chosen secret can keep it from
// logging in again. A generated secret has neither weakness.
type DeviceLogins struct {
	backoff *Backoff
	keys    *Keys
	each    time.Duration // in which a guess at a device comes back

	repeated, spent atomic.Uint64
}

// NewDeviceLogins makes a DeviceLogins without memory of earlier failures.
func NewDeviceLogins(keys *Keys, cfg DeviceLoginsConfig) *DeviceLogins {
	if cfg.Backoff.Max <= 0 {
		cfg.Backoff.Max = DefaultDeviceBackoff
	}
	if cfg.DailyGuesses <= 0 {
		cfg.DailyGuesses = DefaultDailyGuesses
	}
	return &DeviceLogins{backoff: NewBackoff(cfg.Backoff), keys: keys, each: guessPeriod / time.Duration(cfg.DailyGuesses)}
}

// Attempt is a device's attempt to log in.
type Attempt struct {
	Name, Secret []byte
	// Address is the peer's; the zero value (a local socket) is never delayed.
	Address netip.Addr
	// Exists says that there is a device of this name; the rest describes it.
	Exists bool
	// Allowed says that the device is not disabled.
	Allowed bool
	// Seen says that the device's latest login came from Address, also before a restart.
	Seen bool
	Kind SecretKind
	Sum  [32]byte
	// Secrets tells the device's secrets apart, and devices of one name; never 0.
	Secrets uint64
}

// Outcome is what became of an Attempt.
type Outcome uint8

// The outcomes. Whoever made the attempt must not be told more than right or not.
const (
	// LoginWrong says that the name or the secret is wrong, or the device disabled.
	LoginWrong Outcome = iota
	// LoginRight lets the device in.
	LoginRight
	// LoginDelayed says that the attempt came during a wait and was not checked.
	LoginDelayed
	// LoginSpent is LoginWrong, and the last of the day's guesses at a device that exists.
	// It is given once a day at most for a name and address.
	LoginSpent
)

// Check decides on an attempt at the time now.
func (l *DeviceLogins) Check(a *Attempt, now time.Time) Outcome {
	b := l.backoff
	if !a.Address.IsValid() {
		if l.verify(a) {
			return LoginRight
		}
		b.failures.Add(1)
		return LoginWrong
	}
	at := now.Sub(b.start)
	pair, address := b.placesOf(maphash.Bytes(b.seed, a.Name), a.Address)
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.waitOf(a, pair, address, at) > 0 {
		b.refused.Add(1)
		return LoginDelayed
	}
	if l.verify(a) {
		b.known.use(address)
		if a.guessable() { // for others the address is enough, and there may be very many
			b.known.use(pair)
		}
		if e := b.failing.find(pair); e != nil {
			e.count, e.until = 0, 0
			if e.guesses.back <= at { // guesses outlive a success: somebody else may have made them
				b.failing.forget(pair)
			}
		}
		return LoginRight
	}
	return l.wrong(a, pair, address, at)
}

func (l *DeviceLogins) verify(a *Attempt) bool {
	if !a.Exists {
		return l.keys.VerifyNothing(a.Secret)
	}
	return l.keys.Verify(a.Kind, &a.Sum, a.Secret) && a.Allowed
}

// guessable says whether guessing may lead anywhere. Unknown names count as such, so that
// a wait does not tell which names exist.
func (a *Attempt) guessable() bool { return !a.Exists || a.Kind != SecretGenerated }

// waitOf is how long attempts like a are refused unchecked. The lock is held.
func (l *DeviceLogins) waitOf(a *Attempt, pair, address place, at time.Duration) time.Duration {
	b := l.backoff
	ofPair, ofAddress := b.waitOf(pair, at), b.waitOf(address, at)
	if !a.guessable() {
		if a.Seen || b.known.find(address) != nil {
			return 0
		}
		return max(ofPair, ofAddress)
	}
	var budget time.Duration
	if e := b.failing.find(pair); e != nil && e.guesses.secrets == a.Secrets {
		budget = e.guesses.spentFor(at, l.each)
	}
	if a.Seen || b.known.find(pair) != nil {
		return budget
	}
	if e := b.failing.find(address); e != nil {
		if b.known.find(address) != nil {
			ofAddress = 0
		}
		ofAddress = max(ofAddress, e.guesses.spentFor(at, l.each/addressGuesses))
	}
	return max(ofPair, ofAddress, budget)
}

// wrong counts a wrong secret. The lock is held.
func (l *DeviceLogins) wrong(a *Attempt, pair, address place, at time.Duration) Outcome {
	b := l.backoff
	b.failures.Add(1)
	b.fail(pair, at)
	b.fail(address, at)
	e := b.failing.find(pair)
	if e.guesses.secrets != a.Secrets {
		e.guesses = guesses{secrets: a.Secrets}
	}
	if !a.guessable() {
		return LoginWrong
	}
	if e.guesses.has(uint32(maphash.Bytes(b.seed, a.Secret))) { //nolint:gosec // any bits of it do
		l.repeated.Add(1)
		return LoginWrong
	}
	e.guesses.take(at, l.each)
	b.failing.find(address).guesses.take(at, l.each/addressGuesses)
	if !a.Exists || e.guesses.spentFor(at, l.each) == 0 || e.guesses.told > at {
		return LoginWrong
	}
	e.guesses.told = at + guessPeriod
	l.spent.Add(1)
	return LoginSpent
}

// Failures is how many wrong secrets were seen, Refused how many attempts were refused
// unchecked, Repeated how many of the failures were secrets of which it was known that they
// are wrong, and Spent how often the day's guesses at a device were used up.
func (l *DeviceLogins) Failures() uint64 { return l.backoff.Failures() }

// Refused is told at Failures.
func (l *DeviceLogins) Refused() uint64 { return l.backoff.Refused() }

// Repeated is told at Failures.
func (l *DeviceLogins) Repeated() uint64 { return l.repeated.Load() }

// Spent is told at Failures.
func (l *DeviceLogins) Spent() uint64 { return l.spent.Load() }

// guesses are the different wrong secrets seen at a place.
type guesses struct {
	back    time.Duration // when all of them will have come back
	told    time.Duration // until when nobody is told again that they are spent
	secrets uint64        // Attempt.Secrets they were made at
	kept    [guessesKept]uint32
	next    uint8 // the oldest of kept
}

// take uses up a guess that comes back after each.
func (g *guesses) take(at, each time.Duration) { g.back = max(g.back, at) + each }

// spentFor is how long it takes until there is a guess again, 0 while there is: a day's are
// there at first.
func (g *guesses) spentFor(at, each time.Duration) time.Duration {
	return max(g.back+each-guessPeriod-at, 0)
}

// has tells whether a secret was seen lately, and keeps it in mind.
func (g *guesses) has(secret uint32) bool {
	secret |= 1 // 0 is none
	for _, k := range g.kept {
		if k == secret {
			return true
		}
	}
	g.kept[g.next] = secret
	g.next = (g.next + 1) % guessesKept
	return false
}
