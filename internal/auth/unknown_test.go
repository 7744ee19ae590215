package auth

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestUnknownOutcome breaks the connection to a server at the COMMIT of each kind of change,
// and lets nobody in for a while. Meanwhile no other change is made; afterwards memory is what
// is stored.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, kind := range storetest.Servers() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			testUnknownOutcome(t, kind)
		})
	}
}

func testUnknownOutcome(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	proxy := storetest.NewProxy(t, db)
	st := db.Open(t, func(c *store.Config) { c.URL = db.URLAt(proxy) }).Store
	p := load(t, st)
	addUser(t, p, "ann")
	addUser(t, p, "bob")
	if _, _, err := p.CreateToken(t.Context(), "old", signalbox.ScopeRead, time.Time{}, "ann"); err != nil {
		t.Fatal(err)
	}
	changes := []struct {
		name string
		make func() error
	}{
		{"add a user", func() error { _, err := p.AddUser(t.Context(), "eve", "password of eve"); return err }},
		{"log in", func() error { _, err := p.Login(t.Context(), "bob", "password of bob", home); return err }},
		{"set a password", func() error { return p.SetPassword(t.Context(), "bob", "another one") }},
		{"remove a user", func() error { return p.RemoveUser(t.Context(), "bob") }},
		{"create a token", func() error {
			_, _, err := p.CreateToken(t.Context(), "new", signalbox.ScopeRead, time.Time{}, "ann")
			return err
		}},
		{"revoke a token", func() error { return p.RevokeToken(t.Context(), "old") }},
	}
	for _, change := range changes {
		for _, stored := range []bool{false, true} { // in this order: what was not stored can be done again
			t.Run(fmt.Sprintf("%s, stored %v", change.name, stored), func(t *testing.T) {
				before := inMemory(p)
				proxy.Order(storetest.Cut{Text: "COMMIT", After: stored, Refuse: true})
				err := change.make()
				if _, is := errors.AsType[*store.UnknownOutcome](err); !is {
					t.Fatalf("the change gives %v", err)
				}
				wantKind(t, err, signalbox.KindUnavailable, "outcome_unknown")
				if err := p.RemoveUser(t.Context(), "ann"); signalbox.KindOf(err) != signalbox.KindUnavailable {
					t.Errorf("meanwhile another change gives %v", err)
				}
				if !slices.Equal(inMemory(p), before) {
					t.Errorf("meanwhile memory has %q, want %q", inMemory(p), before)
				}
				proxy.Admit()
				if err := st.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if after := inMemory(p); slices.Equal(after, before) == stored {
					t.Errorf("afterwards memory has %q, before it %q", after, before)
				}
				if got, want := inMemory(p), inMemory(load(t, st)); !slices.Equal(got, want) {
					t.Errorf("memory has %q, the store %q", got, want)
				}
			})
		}
	}
	if names := userNames(p); !slices.Equal(names, []string{"ann", "eve"}) {
		t.Fatalf("users are %v", names)
	}
	// Two removals, of which the first is not known: the last user stays.
	proxy.Order(storetest.Cut{Text: "COMMIT", After: true, Refuse: true})
	wantKind(t, p.RemoveUser(t.Context(), "eve"), signalbox.KindUnavailable, "outcome_unknown")
	proxy.Admit()
	wantKind(t, p.RemoveUser(t.Context(), "ann"), signalbox.KindConflict, "last_user")
}

// inMemory is all that p knows.
func inMemory(p *People) (all []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, one := range p.people {
		all = append(all, fmt.Sprint("user ", one.ID, one.Name, one.hash, p.byID[one.ID] == one))
	}
	for hash, one := range p.tokens {
		all = append(all, fmt.Sprint("token ", one.ID, one.Name, one.Scope, hash, p.named[one.Name] == one))
	}
	for hash, l := range p.logins {
		all = append(all, fmt.Sprint("login ", l.person.Name, l.expires.Load(), hash))
	}
	slices.Sort(all)
	return all
}
