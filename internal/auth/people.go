package auth

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"signalbox"
)

// PersonStore keeps people. Writes are on disk when they return nil. What they are given as
// stored is called once the change is on disk: before they return, or later, when they return
// an error because nobody knows yet; see Store.
type PersonStore interface {
	// People calls yield for each person with their bcrypt hash, by ID.
	People(ctx context.Context, yield func(u signalbox.User, hash string) error) error
	// AddPerson stores a new person (u.ID is not looked at) and gives the ID. A taken name
	// gives KindConflict.
	AddPerson(ctx context.Context, u signalbox.User, hash string, stored func(id int64)) error
	// SetPersonHash replaces a person's hash and ends their logins.
	SetPersonHash(ctx context.Context, id int64, hash string, stored func()) error
	// RemovePerson removes a person and their logins.
	RemovePerson(ctx context.Context, id int64, stored func()) error
}

// TokenStore keeps programs' tokens; writes are like those of PersonStore.
type TokenStore interface {
	// Tokens calls yield for each token with the hash of its secret, by ID.
	Tokens(ctx context.Context, yield func(t signalbox.Token, hash [32]byte) error) error
	// AddToken stores a new token (t.ID is not looked at) and gives the ID. A taken name
	// gives KindConflict.
	AddToken(ctx context.Context, t signalbox.Token, hash [32]byte, stored func(id int64)) error
	RemoveToken(ctx context.Context, id int64, stored func()) error
}

// LoginStore keeps browser logins; writes are like those of PersonStore.
type LoginStore interface {
	// Logins calls yield for each login, oldest first.
	Logins(ctx context.Context, yield func(hash [32]byte, person int64, created, expires time.Time) error) error
	// AddLogin stores a new login and removes others, in one step.
	AddLogin(ctx context.Context, hash [32]byte, person int64, created, expires time.Time, remove [][32]byte, stored func()) error
	RemoveLogins(ctx context.Context, hashes [][32]byte, stored func()) error
	// Touch stores when tokens (by ID) were last used and until when logins now hold.
	Touch(ctx context.Context, used map[int64]time.Time, expires map[[32]byte]time.Time) error
}

// Store is what People needs to survive a restart.
type Store interface {
	PersonStore
	TokenStore
	LoginStore
	// Settle returns nil when it is known what became of all writes so far, and what they were
	// given as stored has been called.
	Settle(ctx context.Context) error
}

const (
	// LoginLife is how long a browser login holds without being used, by default.
	LoginLife = 30 * 24 * time.Hour
	// MaxLogins is how many browser logins a person may have; one more ends the oldest.
	MaxLogins = 50
	// MaxPeople bounds the people held in memory.
	MaxPeople = 10_000
	// MaxTokens bounds the tokens held in memory.
	MaxTokens = 10_000
)

// Identity is who asks, as far as the hub knows them.
type Identity struct {
	// ID is the user's or the token's number; each has its own count.
	ID   int64
	Name string
	// User says that this is a person; otherwise it is a program with a token.
	User  bool
	Scope signalbox.Scope
	// Expires is when the credential ends unless it is used before (zero: never).
	Expires time.Time
	// Renewed says that this use moved the end of a browser login: the cookie needs the
	// new Expires.
	Renewed bool
}

// PeopleConfig says what a People works with. Zeroes other than Store take defaults.
type PeopleConfig struct {
	Store     Store
	Passwords *Passwords
	// Backoff slows down guessing of people's passwords (DefaultPeopleBackoff).
	Backoff *Backoff
	// LoginLife is how long a browser login holds without being used (default LoginLife).
	LoginLife time.Duration
	// Revoked is called with the ID of a token that was revoked, once that is stored; it must not
	// wait, nor call People. It may be nil.
	Revoked func(id int64)
	Logger  *slog.Logger
}

// People knows who may come in besides devices. NewPeople loads everything; Run writes
// down what was last used when.
type People struct {
	life    time.Duration // of a browser login that is not used
	revoked func(id int64)

	store     Store
	passwords *Passwords
	backoff   *Backoff
	log       *slog.Logger
	seed      maphash.Seed // of hashOf

	// change is held for the length of every change, see begin.
	change sync.Mutex
	mu     sync.RWMutex // guards the maps; held briefly
	people map[string]*person
	byID   map[int64]*person
	tokens map[[32]byte]*token
	named  map[string]*token
	logins map[[32]byte]*login

	touched atomic.Bool // something waits for Flush
}

// The fields of these that can change are atomic or guarded by People.mu.
type person struct {
	signalbox.User
	hash string
}

type token struct {
	signalbox.Token // LastUsed is in used
	hash            [32]byte
	used, written   atomic.Int64 // Unix minutes: last used, and what of it is stored
}

type login struct {
	person           *person
	hash             [32]byte
	created          time.Time
	expires, written atomic.Int64 // Unix ms: the end, and what of it is stored
}

// NewPeople loads people, tokens and logins from cfg.Store.
func NewPeople(ctx context.Context, cfg PeopleConfig) (*People, error) {
	if cfg.LoginLife <= 0 {
		cfg.LoginLife = LoginLife
	}
	p := &People{
		life: cfg.LoginLife, revoked: cfg.Revoked,
		store: cfg.Store, passwords: cfg.Passwords, backoff: cfg.Backoff, log: cfg.Logger, seed: maphash.MakeSeed(),
		people: map[string]*person{}, byID: map[int64]*person{}, tokens: map[[32]byte]*token{}, named: map[string]*token{}, logins: map[[32]byte]*login{},
	}
	if p.passwords == nil {
		p.passwords = NewPasswords(0, 0)
	}
	if p.backoff == nil {
		p.backoff = NewBackoff(BackoffConfig{Max: DefaultPeopleBackoff})
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if err := p.loadPeople(ctx); err != nil {
		return nil, err
	}
	if err := p.loadTokens(ctx); err != nil {
		return nil, err
	}
	if err := p.loadLogins(ctx); err != nil {
		return nil, err
	}
	p.touched.Store(true) // so that the first Flush removes logins that ended meanwhile
	return p, nil
}

// Backoff is what slows down guessing of people's passwords, for its counters.
func (p *People) Backoff() *Backoff { return p.backoff }

func (p *People) loadPeople(ctx context.Context) error {
	err := p.store.People(ctx, func(u signalbox.User, hash string) error {
		p.Imported(u, hash)
		return nil
	})
	if err != nil {
		return fmt.Errorf("load people: %w", err)
	}
	return nil
}

// Imported takes in a person whom an import has stored in a transaction of its own, with
// their ID. It is to be called as soon as that is on disk, before the store is changed again.
func (p *People) Imported(u signalbox.User, hash string) {
	one := &person{User: u, hash: hash}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.people[u.Name], p.byID[u.ID] = one, one
}

// beginChange begins a change, which ends with p.change.Unlock. Changes run one after
// another, and none begins before it is known what became of the one before: what it looks at
// in memory is what is stored. change is taken before mu and never while a password is
// computed. The memory changes when the store says that the change is stored, which may be
// later than the change's end; only mu is needed for that.
func (p *People) beginChange(ctx context.Context) error {
	p.change.Lock()
	err := p.store.Settle(ctx)
	if err != nil {
		p.change.Unlock()
	}
	return err
}

// AddUser adds a person. It gives KindInvalid for a name that CheckUserName or a password
// that CheckNewPassword refuses, KindConflict for a taken name, KindLimited beyond
// MaxPeople or when too many passwords wait.
func (p *People) AddUser(ctx context.Context, name, password string) (signalbox.User, error) {
	if err := p.mayAdd(name); err != nil {
		return signalbox.User{}, err
	}
	hash, err := p.passwords.HashPassword(ctx, password)
	if err != nil {
		return signalbox.User{}, err
	}
	return p.add(ctx, name, hash)
}

// ImportUser adds a person with a bcrypt hash from elsewhere. A person of that name is
// kept as they are, and added is false. It gives KindInvalid for what CheckUserName or
// CheckHash refuses.
func (p *People) ImportUser(ctx context.Context, name, hash string) (added bool, err error) {
	if err := CheckUserName(name); err != nil {
		return false, err
	}
	if err := CheckHash(hash); err != nil {
		return false, err
	}
	_, err = p.add(ctx, name, hash)
	if signalbox.CodeOf(err) == codeNameTaken {
		return false, nil
	}
	return err == nil, err
}

const codeNameTaken = "name_taken"

// mayAdd tells, before a password is computed for nothing, whether name can be added.
func (p *People) mayAdd(name string) error {
	if err := CheckUserName(name); err != nil {
		return err
	}
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.people[name] != nil {
		return signalbox.Errorf(signalbox.KindConflict, codeNameTaken, "a user named %q exists already", name)
	}
	if len(p.people) >= MaxPeople {
		return signalbox.Errorf(signalbox.KindLimited, "too_many_users", "there are %d users already, which is the most a hub keeps", len(p.people))
	}
	return nil
}

func (p *People) add(ctx context.Context, name, hash string) (signalbox.User, error) {
	if err := p.beginChange(ctx); err != nil {
		return signalbox.User{}, err
	}
	defer p.change.Unlock()
	if err := p.mayAdd(name); err != nil {
		return signalbox.User{}, err
	}
	u := signalbox.User{Name: name, CreatedAt: now()}
	err := p.store.AddPerson(ctx, u, hash, func(id int64) {
		u.ID = id
		p.Imported(u, hash)
	})
	if err != nil {
		return signalbox.User{}, err
	}
	return u, nil
}

// SetPassword gives a person a new password and ends all their browser logins. Errors are
// those of AddUser, and KindNotFound.
func (p *People) SetPassword(ctx context.Context, name, password string) error {
	if _, err := p.find(name); err != nil {
		return err
	}
	hash, err := p.passwords.HashPassword(ctx, password)
	if err != nil {
		return err
	}
	if err := p.beginChange(ctx); err != nil {
		return err
	}
	defer p.change.Unlock()
	one, err := p.find(name)
	if err != nil {
		return err
	}
	return p.store.SetPersonHash(ctx, one.ID, hash, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		one.hash = hash
		p.endLogins(one)
	})
}

// RemoveUser removes a person and ends their browser logins; tokens they made stay until
// they are revoked. The last person cannot be removed (KindConflict).
func (p *People) RemoveUser(ctx context.Context, name string) error {
	if err := p.beginChange(ctx); err != nil {
		return err
	}
	defer p.change.Unlock()
	one, err := p.find(name)
	if err != nil {
		return err
	}
	p.mu.RLock()
	last := len(p.people) == 1
	p.mu.RUnlock()
	if last {
		return signalbox.Errorf(signalbox.KindConflict, "last_user", "%q is the only user and cannot be removed; add another one first", name)
	}
	return p.store.RemovePerson(ctx, one.ID, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.people, name)
		delete(p.byID, one.ID)
		p.endLogins(one)
	})
}

// endLogins forgets the logins of one person; mu is held.
func (p *People) endLogins(one *person) {
	for hash, l := range p.logins {
		if l.person == one {
			delete(p.logins, hash)
		}
	}
}

// ListUsers gives all people by ID.
func (p *People) ListUsers() []signalbox.User {
	p.mu.RLock()
	defer p.mu.RUnlock()
	list := make([]signalbox.User, 0, len(p.people))
	for _, one := range p.people {
		list = append(list, one.User)
	}
	slices.SortFunc(list, func(a, b signalbox.User) int { return int(a.ID - b.ID) })
	return list
}

func (p *People) find(name string) (*person, error) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if one := p.people[name]; one != nil {
		return one, nil
	}
	return nil, signalbox.Errorf(signalbox.KindNotFound, "user_not_found", "there is no user %q", name)
}

// hashOf gives a person's hash. For a name that nobody has it gives somebody's, always the
// same for one name while the process runs, so that computing it takes what a login takes here: imported
// hashes may be of any cost. It is empty when there is nobody.
func (p *People) hashOf(name string) (hash string, known bool) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if one := p.people[name]; one != nil {
		return one.hash, true
	}
	// Somebody is whoever comes next when names are put in a ring by their hash: that
	// hardly changes when people come and go.
	want := maphash.String(p.seed, name)
	nearest := ^uint64(0)
	for other, one := range p.people {
		if d := maphash.String(p.seed, other) - want; hash == "" || d < nearest {
			nearest, hash = d, one.hash
		}
	}
	return hash, false
}

// CheckUserName tells whether name may name a person: 1 to 64 characters, letters of any
// script, digits, «.», «_», «-», «@» and «+», so that e-mail addresses will do. Capitals
// count: «Admin» is not «admin».
func CheckUserName(name string) error {
	bad := func(format string, args ...any) error {
		return signalbox.Errorf(signalbox.KindInvalid, "invalid_name", "the user name "+format, args...)
	}
	if name == "" {
		return bad("is empty; it needs 1 to %d characters", signalbox.MaxNameLen)
	}
	if !utf8.ValidString(name) {
		return bad("%q is not valid UTF-8", name)
	}
	if n := utf8.RuneCountInString(name); n > signalbox.MaxNameLen {
		return bad("has %d characters; at most %d are allowed", n, signalbox.MaxNameLen)
	}
	if name == "." || name == ".." {
		return bad("may not be %q, which means a folder in addresses", name)
	}
	for _, r := range name {
		if !strings.ContainsRune("._-@+", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			return bad("%q holds %q; allowed are letters, digits, «.», «_», «-», «@» and «+»", name, r)
		}
	}
	return nil
}

// now is the time as it is stored: UTC, whole milliseconds.
func now() time.Time { return time.UnixMilli(time.Now().UnixMilli()).UTC() }
