package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"

	"signalbox"
)

const (
	// MinPasswordChars is the shortest password a person may choose, in characters.
	// Imported ones may be shorter.
	MinPasswordChars = 8
	// MaxImportCost is the highest bcrypt cost accepted from elsewhere: each step doubles
	// the time of a login, and 15 takes some seconds.
	MaxImportCost = 15
	// DefaultPasswordCost is the bcrypt cost of new passwords: some 50 ms of one core.
	DefaultPasswordCost = 10
	// DefaultPasswordQueue is how many password checks may wait for the one that runs.
	DefaultPasswordQueue = 32
)

// Passwords computes bcrypt, one at a time. A process has one.
type Passwords struct {
	cost    int
	queue   int64
	turn    chan struct{} // holds the one computation
	present atomic.Int64  // who computes and who waits
}

// NewPasswords makes the place where passwords are computed: new ones at the given
// bcrypt cost (4 to 15; 0 takes DefaultPasswordCost), with at most queue callers waiting
// (0 takes DefaultPasswordQueue).
func NewPasswords(cost, queue int) *Passwords {
	if cost == 0 {
		cost = DefaultPasswordCost
	}
	if queue <= 0 {
		queue = DefaultPasswordQueue
	}
	return &Passwords{cost: min(max(cost, bcrypt.MinCost), MaxImportCost), queue: int64(queue), turn: make(chan struct{}, 1)}
}

// HashPassword gives what to keep of a new password. It refuses what CheckNewPassword
// refuses, gives KindLimited when too many wait, and ctx's error when that ends first.
func (p *Passwords) HashPassword(ctx context.Context, password string) (string, error) {
	if err := CheckNewPassword(password); err != nil {
		return "", err
	}
	done, err := p.wait(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), p.cost)
	if err != nil {
		return "", fmt.Errorf("hash a password: %w", err)
	}
	return string(hash), nil
}

// CheckPassword reports whether password is the one kept as hash. An empty hash stands
// for a person who does not exist: it costs the same and is never right. A password of
// more than signalbox.MaxPasswordLen bytes gives KindInvalid; KindLimited and ctx as for
// HashPassword.
func (p *Passwords) CheckPassword(ctx context.Context, hash, password string) (bool, error) {
	return p.check(ctx, hash, password, nil, nil)
}

// check is CheckPassword that asks gate, when its turn has come, whether to go on, and tells
// wrong of a wrong password before the next one has its turn.
func (p *Passwords) check(ctx context.Context, hash, password string, gate func() error, wrong func()) (bool, error) {
	if len(password) > signalbox.MaxPasswordLen {
		return false, tooLong(password)
	}
	done, err := p.wait(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	if gate != nil {
		if err := gate(); err != nil {
			return false, err
		}
	}
	known := hash != ""
	if !known {
		hash = fmt.Sprintf("$2a$%02d$%s", p.cost, strings.Repeat(".", 53))
	}
	err = bcrypt.CompareHashAndPassword([]byte(hash), []byte(password))
	if err != nil && !errors.Is(err, bcrypt.ErrMismatchedHashAndPassword) {
		return false, fmt.Errorf("check a password: %w", err)
	}
	right := known && err == nil
	if !right && wrong != nil {
		wrong()
	}
	return right, nil
}

// wait comes back when it is the caller's turn; done ends the turn.
func (p *Passwords) wait(ctx context.Context) (done func(), err error) {
	if p.present.Add(1) > p.queue+1 {
		p.present.Add(-1)
		return nil, signalbox.Errorf(signalbox.KindLimited, "busy", "%d passwords wait to be checked already; try again in a few seconds", p.queue)
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		p.present.Add(-1)
		return nil, ctx.Err()
	}
	// Both may have been ready.
	if err := ctx.Err(); err != nil {
		p.leave()
		return nil, err
	}
	return p.leave, nil
}

func (p *Passwords) leave() {
	<-p.turn
	p.present.Add(-1)
}

// CheckNewPassword tells whether a person may choose this password: MinPasswordChars
// characters to signalbox.MaxPasswordLen bytes.
func CheckNewPassword(password string) error {
	if len(password) > signalbox.MaxPasswordLen {
		return tooLong(password)
	}
	if n := utf8.RuneCountInString(password); n < MinPasswordChars {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_password", "the password has %d characters; it needs at least %d", n, MinPasswordChars)
	}
	return nil
}

func tooLong(password string) error {
	return signalbox.Errorf(signalbox.KindInvalid, "invalid_password", "the password has %d bytes; at most %d are allowed (a letter that is not English counts 2 to 4)",
		len(password), signalbox.MaxPasswordLen)
}

// NewPassword makes a password for a person: four groups of four characters, 80 random
// bits, such as «k3vd-9mwx-ah2t-pq7c».
func NewPassword() string {
	r := random(16)
	return r[:4] + "-" + r[4:8] + "-" + r[8:12] + "-" + r[12:]
}

// CheckHash tells whether a bcrypt hash from elsewhere can be used: $2a$, $2b$ or $2y$,
// a cost of 4 to MaxImportCost, and 53 characters of salt and hash.
func CheckHash(hash string) error {
	bad := func(format string, args ...any) error {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_password_hash", "the password hash "+format, args...)
	}
	const prefixLen, hashLen = 7, 60
	if len(hash) < prefixLen || (hash[:4] != "$2a$" && hash[:4] != "$2b$" && hash[:4] != "$2y$") {
		return bad("is not bcrypt; it has to begin with $2a$, $2b$ or $2y$")
	}
	if !isDigit(hash[4]) || !isDigit(hash[5]) || hash[6] != '$' {
		return bad("has no cost; after %s two digits and a $ have to follow", hash[:4])
	}
	if cost := int(hash[4]-'0')*10 + int(hash[5]-'0'); cost < bcrypt.MinCost || cost > MaxImportCost {
		return bad("has cost %d; %d to %d are allowed, because each step doubles the time of a login", cost, bcrypt.MinCost, MaxImportCost)
	}
	if len(hash) != hashLen {
		return bad("has %d characters; a bcrypt hash has %d", len(hash), hashLen)
	}
	for i := prefixLen; i < hashLen; i++ {
		if strings.IndexByte(bcryptAlphabet, hash[i]) < 0 {
			return bad("holds %q at place %d; allowed are letters, digits, «.» and «/»", hash[i], i+1)
		}
	}
	// 31 characters carry 184 bits: the two left over are zero in what bcrypt writes.
	if strings.IndexByte(bcryptAlphabet, hash[hashLen-1])&3 != 0 {
		return bad("ends in %q, which no bcrypt hash does; it has been damaged", hash[hashLen-1])
	}
	return nil
}

// bcryptAlphabet is bcrypt's base 64, in order.
const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
