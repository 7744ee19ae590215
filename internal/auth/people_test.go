package auth

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signalbox"
	"signalbox/internal/store"
)

func openStore(tb testing.TB) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), store.Config{Dir: filepath.Clean(tb.TempDir())})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func load(tb testing.TB, s Store) *People {
	tb.Helper()
	p, err := NewPeople(tb.Context(), PeopleConfig{Store: s, Passwords: quick()})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func addUser(tb testing.TB, p *People, name string) {
	tb.Helper()
	if _, err := p.AddUser(tb.Context(), name, "password of "+name); err != nil {
		tb.Fatal(err)
	}
}

func logIn(tb testing.TB, p *People, name string) Cookie {
	tb.Helper()
	c, err := p.Login(tb.Context(), name, "password of "+name, home)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func wantKind(tb testing.TB, err error, kind signalbox.Kind, code string) {
	tb.Helper()
	if err == nil || signalbox.KindOf(err) != kind || signalbox.CodeOf(err) != code {
		tb.Errorf("got %v (kind %d, code %s), want kind %d, code %s", err, signalbox.KindOf(err), signalbox.CodeOf(err), kind, code)
	}
}

func userNames(p *People) []string {
	var names []string
	for _, u := range p.ListUsers() {
		names = append(names, u.Name)
	}
	return names
}

func TestUsers(t *testing.T) {
	s := openStore(t)
	p := load(t, s)
	addUser(t, p, "zoë")
	wantKind(t, p.RemoveUser(t.Context(), "zoë"), signalbox.KindConflict, "last_user")
	addUser(t, p, "ann@example.org")
	_, err := p.AddUser(t.Context(), "zoë", "another password")
	wantKind(t, err, signalbox.KindConflict, "name_taken")
	_, err = p.AddUser(t.Context(), "bob", "short")
	wantKind(t, err, signalbox.KindInvalid, "invalid_password")
	wantKind(t, p.RemoveUser(t.Context(), "bob"), signalbox.KindNotFound, "user_not_found")
	wantKind(t, p.SetPassword(t.Context(), "bob", "long enough"), signalbox.KindNotFound, "user_not_found")

	first, second, third := logIn(t, p, "zoë"), logIn(t, p, "zoë"), logIn(t, p, "ann@example.org")
	id, err := p.AuthenticateCookie(first.Secret)
	want := Identity{ID: 1, Name: "zoë", User: true, Scope: signalbox.ScopeAdmin, Expires: first.Expires}
	if err != nil || id != want {
		t.Errorf("the cookie is %+v, %v, want %+v", id, err, want)
	}
	if err := p.SetPassword(t.Context(), "zoë", "another password"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []Cookie{first, second} {
		_, err := p.AuthenticateCookie(c.Secret)
		wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
	}
	if _, err := p.AuthenticateCookie(third.Secret); err != nil {
		t.Errorf("somebody else's login ended too: %v", err)
	}
	_, err = p.Login(t.Context(), "zoë", "password of zoë", home)
	wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")

	// A restart changes nothing of it.
	p = load(t, s)
	if got, want := userNames(p), []string{"zoë", "ann@example.org"}; !slices.Equal(got, want) {
		t.Errorf("users are %v, want %v", got, want)
	}
	if _, err := p.Login(t.Context(), "zoë", "another password", home); err != nil {
		t.Error(err)
	}
	if id, err := p.AuthenticateCookie(third.Secret); err != nil || id.Name != "ann@example.org" {
		t.Errorf("after a restart the cookie is %+v, %v", id, err)
	}
	if err := p.RemoveUser(t.Context(), "ann@example.org"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*People{p, load(t, s)} {
		_, err = p.AuthenticateCookie(third.Secret)
		wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		if got, want := userNames(p), []string{"zoë"}; !slices.Equal(got, want) {
			t.Errorf("users are %v, want %v", got, want)
		}
	}
}

func TestCheckUserName(t *testing.T) {
	tests := []struct {
		name string
		ok   bool
	}{
		{"admin", true},
		{"Иван", true},
		{"管理员", true},
		{"ann+x@example.org", true},
		{strings.Repeat("ж", 64), true},
		{"", false},
		{".", false},
		{"..", false},
		{strings.Repeat("x", 65), false},
		{"a b", false},
		{"a/b", false},
		{"a\x00", false},
		{"\xff", false},
		{"<b>", false},
	}
	for _, tt := range tests {
		if err := CheckUserName(tt.name); (err == nil) != tt.ok {
			t.Errorf("%q gives %v, want ok %v", tt.name, err, tt.ok)
		}
	}
}

func TestImportUser(t *testing.T) {
	s := openStore(t)
	p := load(t, s)
	const vector = "$2b$04$cVWp4XaNU8a4v1uMRum2SO026BWLIoQMD/TXg5uZV.0P.uO8m3YEm"
	for i, want := range []bool{true, false} {
		hash := vector
		if i == 1 {
			hash = hash4 // must not replace the first
		}
		if added, err := p.ImportUser(t.Context(), "admin", hash); err != nil || added != want {
			t.Errorf("import %d: added %v, %v", i, added, err)
		}
	}
	if _, err := p.Login(t.Context(), "admin", "Kk4DQuMMfZL9o", home); err != nil {
		t.Error(err)
	}
	_, err := p.ImportUser(t.Context(), "a b", vector)
	wantKind(t, err, signalbox.KindInvalid, "invalid_name")
	_, err = p.ImportUser(t.Context(), "bob", "$2b$16"+vector[6:])
	wantKind(t, err, signalbox.KindInvalid, "invalid_password_hash")

	// An import that writes people in its own transaction.
	cookie, err := p.Login(t.Context(), "admin", "Kk4DQuMMfZL9o", home)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		eve := signalbox.User{Name: "eve"}
		var err error
		eve.ID, err = tx.InsertPerson(t.Context(), eve, vector)
		tx.Then(func() { p.Imported(eve, vector) })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := userNames(p), []string{"admin", "eve"}; !slices.Equal(got, want) {
		t.Errorf("users are %v, want %v", got, want)
	}
	if _, err := p.AuthenticateCookie(cookie.Secret); err != nil {
		t.Errorf("a login did not outlive the import: %v", err)
	}
	if err := p.SetPassword(t.Context(), "admin", "a new password"); err != nil {
		t.Fatal(err)
	}
	_, err = p.AuthenticateCookie(cookie.Secret)
	wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
}

func TestLoginBacksOff(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := load(t, s)
		addUser(t, p, "ann")
		addUser(t, p, "bob")
		logIn(t, p, "bob")
		for _, name := range []string{"ann", "nobody", "ann", "nobody", "ann"} {
			_, err := p.Login(t.Context(), name, "wrong", home)
			wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		}
		_, err := p.Login(t.Context(), "ann", "password of ann", home)
		wantKind(t, err, signalbox.KindLimited, "too_many_attempts")
		wait, ok := errors.AsType[*WaitError](err)
		if !ok || wait.After != time.Second {
			t.Errorf("the wait is %v, want 1s", wait)
		}
		logIn(t, p, "bob") // has logged in from there before
		if _, err := p.Login(t.Context(), "ann", "password of ann", away); err != nil {
			t.Errorf("from another address: %v", err)
		}
		time.Sleep(time.Second)
		logIn(t, p, "ann")
		if _, err := p.Login(t.Context(), "ann", strings.Repeat("x", 73), home); signalbox.KindOf(err) != signalbox.KindInvalid {
			t.Errorf("a password of 73 bytes gives %v", err)
		}
		if f, r := p.Backoff().Failures(), p.Backoff().Refused(); f != 5 || r != 1 {
			t.Errorf("counted %d failures and %d refused, want 5 and 1", f, r)
		}
	})
}

// TestLoginManyAtOnce holds that attempts sent together do not pass the back-off together.
func TestLoginManyAtOnce(t *testing.T) {
	// However slow the machine is, the wait is not over before all have been told of it.
	p, err := NewPeople(t.Context(), PeopleConfig{Store: openStore(t), Passwords: quick(), Backoff: NewBackoff(BackoffConfig{Base: time.Hour, Max: time.Hour})})
	if err != nil {
		t.Fatal(err)
	}
	addUser(t, p, "ann")
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() { _, _ = p.Login(t.Context(), "ann", "wrong", away) })
	}
	wg.Wait()
	if f := p.Backoff().Failures(); f != DefaultFreeFailures {
		t.Errorf("%d of 30 attempts were checked, want %d", f, DefaultFreeFailures)
	}
}

func TestUnknownNameCostsTheSame(t *testing.T) {
	p := load(t, openStore(t))
	if hash, known := p.hashOf("x"); hash != "" || known {
		t.Errorf("without users the hash is %q", hash)
	}
	costs := map[string]bool{}
	for i := range 40 {
		hash := fmt.Sprintf("$2b$%02d$%s", 4+i%2, tail)
		if _, err := p.ImportUser(t.Context(), fmt.Sprint("user", i), hash); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		hash, known := p.hashOf(fmt.Sprint("nobody", i))
		again, _ := p.hashOf(fmt.Sprint("nobody", i))
		if known || hash == "" || hash != again {
			t.Fatalf("nobody%d is known %v by %q, then %q", i, known, hash, again)
		}
		costs[hash[:7]] = true
	}
	if len(costs) != 2 {
		t.Errorf("unknown names cost as %v, want as both kinds of user", costs)
	}
	// The right password of somebody else does not open a name that does not exist.
	p = load(t, openStore(t))
	addUser(t, p, "ann")
	_, err := p.Login(t.Context(), "nobody", "password of ann", home)
	wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
}

func TestLoginSlides(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := load(t, s)
		addUser(t, p, "ann")
		c, idle := logIn(t, p, "ann"), logIn(t, p, "ann")
		time.Sleep(59 * time.Minute)
		if id, err := p.AuthenticateCookie(c.Secret); err != nil || id.Renewed || !id.Expires.Equal(c.Expires) {
			t.Errorf("within the hour: %+v, %v", id, err)
		}
		time.Sleep(20 * 24 * time.Hour)
		id, err := p.AuthenticateCookie(c.Secret)
		if want := time.Now().Add(LoginLife); err != nil || !id.Renewed || !id.Expires.Equal(want) {
			t.Errorf("after 20 days: %+v, %v, want the end at %s", id, err, want)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * 24 * time.Hour)
		_, err = p.AuthenticateCookie(idle.Secret)
		wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		p = load(t, s) // what was flushed has moved the end
		if _, err := p.AuthenticateCookie(c.Secret); err != nil {
			t.Error(err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := storedLogins(t, s); n != 1 || len(p.logins) != 1 {
			t.Errorf("%d logins are stored and %d loaded, want 1", n, len(p.logins))
		}
		time.Sleep(LoginLife)
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := storedLogins(t, s); n != 0 || len(p.logins) != 0 {
			t.Errorf("%d logins are stored and %d loaded, want none", n, len(p.logins))
		}
	})
}

func storedLogins(t *testing.T, s *store.Store) (n int) {
	t.Helper()
	if err := s.Logins(t.Context(), func([32]byte, int64, time.Time, time.Time) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestLoginsAreBounded(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := load(t, s)
		addUser(t, p, "ann")
		addUser(t, p, "bob")
		bob := logIn(t, p, "bob")
		var cookies []Cookie
		for range MaxLogins + 3 {
			time.Sleep(time.Second)
			cookies = append(cookies, logIn(t, p, "ann"))
		}
		for _, p := range []*People{p, load(t, s)} {
			for i, c := range append(cookies, bob) {
				if _, err := p.AuthenticateCookie(c.Secret); (err == nil) != (i >= 3) {
					t.Errorf("login %d: %v", i, err)
				}
			}
		}
		for range 2 {
			if err := p.Logout(t.Context(), bob.Secret); err != nil {
				t.Error(err)
			}
		}
		_, err := p.AuthenticateCookie(bob.Secret)
		wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		if n := storedLogins(t, s); n != MaxLogins {
			t.Errorf("%d logins are stored, want %d", n, MaxLogins)
		}
	})
}

func TestTokens(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := load(t, s)
		start := time.Now()
		forever, made, err := p.CreateToken(t.Context(), "forever", signalbox.ScopeCommand, time.Time{}, "ann")
		if err != nil || !strings.HasPrefix(forever, TokenPrefix) || len(forever) != 36 {
			t.Fatalf("made %q, %v", forever, err)
		}
		short, _, err := p.CreateToken(t.Context(), "1", signalbox.ScopeRead, start.Add(time.Hour), "ann")
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"name_taken":     create(t, p, "forever", signalbox.ScopeRead, time.Time{}),
			"invalid_name":   create(t, p, "a b", signalbox.ScopeRead, time.Time{}),
			"invalid_scope":  create(t, p, "c", "root", time.Time{}),
			"invalid_expiry": create(t, p, "c", signalbox.ScopeRead, start),
		} {
			if signalbox.CodeOf(err) != name {
				t.Errorf("got %v, want %s", err, name)
			}
		}
		id, err := p.AuthenticateToken(forever)
		if want := (Identity{ID: made.ID, Name: "forever", Scope: signalbox.ScopeCommand}); err != nil || id != want {
			t.Errorf("the token is %+v, %v, want %+v", id, err, want)
		}
		for _, wrong := range []string{"", "sbx_", forever + "x", strings.ToUpper(forever), strings.Repeat("x", 10_000)} {
			_, err := p.AuthenticateToken(wrong)
			wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		}
		time.Sleep(time.Hour - 1)
		if _, err := p.AuthenticateToken(short); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Nanosecond)
		_, err = p.AuthenticateToken(short)
		wantKind(t, err, signalbox.KindUnauthorized, "token_expired")

		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		list := load(t, s).ListTokens()
		if len(list) != 2 || !list[0].LastUsed.Equal(start.Truncate(time.Minute)) || !list[1].LastUsed.Equal(start.Add(59*time.Minute)) || !list[1].ExpiresAt.Equal(start.Add(time.Hour)) {
			t.Errorf("after a restart the tokens are %+v", list)
		}
		// A name wins over an ID: this is the second token.
		if err := p.RevokeToken(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		if list := p.ListTokens(); len(list) != 1 || list[0].Name != "forever" {
			t.Errorf("tokens are %+v, want forever alone", list)
		}
		if err := p.RevokeToken(t.Context(), strconv.FormatInt(made.ID, 10)); err != nil {
			t.Fatal(err)
		}
		_, err = p.AuthenticateToken(forever)
		wantKind(t, err, signalbox.KindUnauthorized, "unauthorized")
		wantKind(t, p.RevokeToken(t.Context(), "forever"), signalbox.KindNotFound, "token_not_found")
		if list := load(t, s).ListTokens(); len(list) != 0 {
			t.Errorf("after a restart the tokens are %+v", list)
		}
	})
}

func create(t *testing.T, p *People, name string, scope signalbox.Scope, expires time.Time) error {
	t.Helper()
	_, _, err := p.CreateToken(t.Context(), name, scope, expires, "ann")
	return err
}

func TestRunWritesAtTheEnd(t *testing.T) {
	s := openStore(t)
	synctest.Test(t, func(t *testing.T) {
		p := load(t, s)
		secret, _, err := p.CreateToken(t.Context(), "a", signalbox.ScopeRead, time.Time{}, "ann")
		if err != nil {
			t.Fatal(err)
		}
		used := func() time.Time { return load(t, s).ListTokens()[0].LastUsed }
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		for _, wait := range []time.Duration{90 * time.Second, 0} {
			if _, err := p.AuthenticateToken(secret); err != nil {
				t.Fatal(err)
			}
			at := time.Now().Truncate(time.Minute)
			if wait > 0 {
				time.Sleep(wait)
			} else {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			if got := used(); !got.Equal(at) {
				t.Errorf("last used is stored as %s, want %s", got, at)
			}
		}
	})
}

func TestFlushTriesAgain(t *testing.T) {
	s := &failing{Store: openStore(t)}
	p := load(t, s)
	secret, _, err := p.CreateToken(t.Context(), "a", signalbox.ScopeRead, time.Time{}, "ann")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.AuthenticateToken(secret); err != nil {
		t.Fatal(err)
	}
	s.fault = signalbox.Errorf(signalbox.KindUnavailable, "disk_full", "the disk is full")
	wantKind(t, p.Flush(t.Context()), signalbox.KindUnavailable, "disk_full")
	s.fault = nil
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if load(t, s).ListTokens()[0].LastUsed.IsZero() {
		t.Error("the use was forgotten after the fault")
	}
}

// failing is a store whose Touch fails on request.
type failing struct {
	*store.Store
	fault error
}

func (f *failing) Touch(ctx context.Context, used map[int64]time.Time, expires map[[32]byte]time.Time) error {
	if f.fault != nil {
		return f.fault
	}
	return f.Store.Touch(ctx, used, expires)
}

// TestPeopleAtOnce is for the race detector.
func TestPeopleAtOnce(t *testing.T) {
	s := openStore(t)
	p := load(t, s)
	addUser(t, p, "ann")
	secret, _, err := p.CreateToken(t.Context(), "a", signalbox.ScopeRead, time.Time{}, "ann")
	if err != nil {
		t.Fatal(err)
	}
	jobs := []func(i int) error{
		func(i int) error { _, err := p.AddUser(t.Context(), fmt.Sprint("user", i), "long enough"); return err },
		func(int) error { return p.SetPassword(t.Context(), "ann", "password of ann") },
		func(int) error {
			c, err := p.Login(t.Context(), "ann", "password of ann", netip.Addr{})
			if signalbox.KindOf(err) == signalbox.KindUnauthorized {
				return nil // the password was set meanwhile
			}
			if err == nil {
				_, _ = p.AuthenticateCookie(c.Secret)
				err = p.Logout(t.Context(), c.Secret)
			}
			return err
		},
		func(int) error { _, err := p.AuthenticateToken(secret); p.ListTokens(); return err },
		func(int) error { p.ListUsers(); return p.Flush(t.Context()) },
	}
	var wg sync.WaitGroup
	for _, job := range jobs {
		wg.Go(func() {
			for i := range 10 {
				if err := job(i); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, want := userNames(load(t, s)), userNames(p); !slices.Equal(got, want) || len(got) != 11 {
		t.Errorf("memory has %v, the store %v", want, got)
	}
}

func BenchmarkAuthenticateToken(b *testing.B) {
	p := load(b, openStore(b))
	secret, _, err := p.CreateToken(b.Context(), "a", signalbox.ScopeRead, time.Time{}, "ann")
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.AuthenticateToken(secret); err != nil {
			b.Fatal(err)
		}
	}
}
