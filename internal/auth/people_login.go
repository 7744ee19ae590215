package auth

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"signalbox"
)

// renewAfter is by how much a browser login's end has to move before it is moved.
const renewAfter = time.Hour

// Cookie is a browser login: the secret that the browser keeps, and until when it holds
// if it is not used before.
type Cookie struct {
	Secret  string
	Expires time.Time
}

// WaitError is the cause of an error of KindLimited and code too_many_attempts.
type WaitError struct {
	// After is how long to wait before the next attempt can be checked.
	After time.Duration
}

// Error says how long to wait.
func (e *WaitError) Error() string { return fmt.Sprintf("wait %s", e.After) }

func tooManyAttempts(wait time.Duration) error {
	seconds := int64((wait + time.Second - 1) / time.Second)
	return signalbox.Wrap(signalbox.KindLimited, "too_many_attempts", &WaitError{After: wait},
		"there were too many failed logins; try again in %d s", seconds)
}

func (p *People) loadLogins(ctx context.Context) error {
	err := p.store.Logins(ctx, func(hash [32]byte, id int64, created, expires time.Time) error {
		if one := p.byID[id]; one != nil {
			p.logins[hash] = newLogin(one, hash, created, expires)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("load browser logins: %w", err)
	}
	return nil
}

func newLogin(one *person, hash [32]byte, created, expires time.Time) *login {
	l := &login{person: one, hash: hash, created: created}
	l.expires.Store(expires.UnixMilli())
	l.written.Store(expires.UnixMilli())
	return l
}

// Login checks a person's password and begins a browser login. address is the peer's, or
// the zero value when it has none.
//
// A wrong name or password gives KindUnauthorized, and both take the same time. After
// failed logins it gives KindLimited with a *WaitError in its chain, without checking.
// KindLimited with code busy means that too many passwords wait to be checked; a password
// that is too long gives KindInvalid; the end of ctx gives its error.
func (p *People) Login(ctx context.Context, name, password string, address netip.Addr) (Cookie, error) {
	gate := func() error {
		if wait := p.backoff.Delay(name, address, time.Now()); wait > 0 {
			return tooManyAttempts(wait)
		}
		return nil
	}
	if err := gate(); err != nil {
		return Cookie{}, err
	}
	hash, known := p.hashOf(name)
	// Asked once more when its turn has come: of many attempts sent at once only the first
	// few may be checked.
	fail := func() { p.backoff.Fail(name, address, time.Now()) }
	right, err := p.passwords.check(ctx, hash, password, gate, fail)
	if err != nil {
		return Cookie{}, err
	}
	if right && !known { // the password is that of somebody else, whose hash was borrowed
		fail()
	}
	if !right || !known {
		return Cookie{}, wrongLogin()
	}
	p.backoff.Succeed(name, address)
	return p.begin(ctx, name, hash)
}

func wrongLogin() error {
	return signalbox.Errorf(signalbox.KindUnauthorized, "unauthorized", "the user name or the password is wrong")
}

// begin stores a browser login of name, whose password was checked against hash.
func (p *People) begin(ctx context.Context, name, hash string) (Cookie, error) {
	secret, key := NewCookie()
	if err := p.beginChange(ctx); err != nil {
		return Cookie{}, err
	}
	defer p.change.Unlock()
	p.mu.RLock()
	one := p.people[name]
	changed := one == nil || one.hash != hash // while the password was checked
	var surplus [][32]byte
	if !changed {
		surplus = p.surplus(one)
	}
	p.mu.RUnlock()
	if changed {
		return Cookie{}, wrongLogin()
	}
	created := now()
	expires := created.Add(p.life)
	err := p.store.AddLogin(ctx, key, one.ID, created, expires, surplus, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, old := range surplus {
			delete(p.logins, old)
		}
		p.logins[key] = newLogin(one, key, created, expires)
	})
	if err != nil {
		return Cookie{}, err
	}
	return Cookie{Secret: secret, Expires: expires}, nil
}

// surplus gives the login that has to end so that one may have one more; mu is held.
func (p *People) surplus(one *person) [][32]byte {
	var oldest *login
	n := 0
	for _, l := range p.logins {
		if l.person != one {
			continue
		}
		n++
		if oldest == nil || l.created.Before(oldest.created) {
			oldest = l
		}
	}
	if n < MaxLogins {
		return nil
	}
	return [][32]byte{oldest.hash}
}

// AuthenticateCookie tells whose browser login this is and lets it hold for its full life from now;
// KindUnauthorized when it is unknown, has ended or was ended. It reads memory only.
func (p *People) AuthenticateCookie(secret string) (Identity, error) {
	key := HashToken(secret)
	p.mu.RLock()
	defer p.mu.RUnlock()
	l := p.logins[key]
	at := now()
	if l == nil {
		return Identity{}, errNoLogin()
	}
	end := l.expires.Load()
	if at.UnixMilli() >= end {
		return Identity{}, errNoLogin()
	}
	renewed := false
	if moved := at.Add(p.life).UnixMilli(); moved-end >= min(renewAfter, p.life/8).Milliseconds() && l.expires.CompareAndSwap(end, moved) {
		end, renewed = moved, true
		p.touched.Store(true)
	}
	return Identity{
		ID: l.person.ID, Name: l.person.Name, User: true, Scope: signalbox.ScopeAdmin,
		Expires: time.UnixMilli(end).UTC(), Renewed: renewed,
	}, nil
}

func errNoLogin() error {
	return signalbox.Errorf(signalbox.KindUnauthorized, "unauthorized", "the login is unknown or has ended; log in again")
}

// Logout ends a browser login. One that is unknown has ended already.
func (p *People) Logout(ctx context.Context, secret string) error {
	key := HashToken(secret)
	if err := p.beginChange(ctx); err != nil {
		return err
	}
	defer p.change.Unlock()
	p.mu.RLock()
	known := p.logins[key] != nil
	p.mu.RUnlock()
	if !known {
		return nil
	}
	return p.store.RemoveLogins(ctx, [][32]byte{key}, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.logins, key)
	})
}
