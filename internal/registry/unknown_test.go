package registry_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"signalbox"
	"signalbox/internal/history"
	"signalbox/internal/registry"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestUnknownOutcome breaks the connection to a server at the COMMIT of each kind of change,
// and lets nobody in for a while. Meanwhile no other change is made; afterwards memory is what
// is stored.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	if storetest.Running() != storetest.SQLite {
		return // once is enough
	}
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
	p := storetest.NewProxy(t, db)
	st := db.Open(t, func(c *store.Config) { c.URL = db.URLAt(p) }).Store
	log, err := history.Open(t.Context(), history.Config{}, st)
	if err != nil {
		t.Fatal(err)
	}
	r := registry.New(st, nil)
	if err := r.Load(t.Context(), log); err != nil {
		t.Fatal(err)
	}
	yes, station := true, "station"
	changes := []struct {
		name string
		make func(d *registry.Device, then func()) error
		seen func(name string) bool
	}{
		{
			"add",
			func(d *registry.Device, then func()) error {
				_, err := r.AddAll(t.Context(), []registry.NewDevice{{Name: d.Name + "-new", Type: "new"}}, func(tx *store.Tx) error {
					tx.Then(then)
					return nil
				})
				return err
			},
			func(name string) bool { return r.Find(name+"-new") != nil },
		},
		{
			"change",
			func(d *registry.Device, then func()) error {
				return r.Update(t.Context(), d, registry.Edit{Type: &station, Disabled: &yes, Secret: &store.Secret{Kind: 1, Sum: [32]byte{1}}}, then)
			},
			func(name string) bool {
				d := r.Find(name)
				return d.Disabled() && d.Type() == station && d.SecretVersion() == 1
			},
		},
		{
			"remove",
			func(d *registry.Device, then func()) error { return r.Remove(t.Context(), d, then) },
			func(name string) bool { return r.Find(name) == nil },
		},
	}
	for _, change := range changes {
		for _, stored := range []bool{false, true} {
			name := fmt.Sprintf("%s-%v", change.name, stored)
			t.Run(name, func(t *testing.T) {
				d := add(t, r, name)
				p.Order(storetest.Cut{Text: "COMMIT", After: stored, Refuse: true})
				told := 0
				err := change.make(d, func() { told++ })
				if _, is := errors.AsType[*store.UnknownOutcome](err); !is || signalbox.CodeOf(err) != "outcome_unknown" {
					t.Fatalf("the change gives %v", err)
				}
				if _, err := r.Add(t.Context(), registry.NewDevice{Name: "other", Type: "box"}); signalbox.KindOf(err) != signalbox.KindUnavailable {
					t.Errorf("meanwhile another change gives %v", err)
				}
				if told != 0 || change.seen(name) {
					t.Errorf("meanwhile it is seen: %v, told %d times", change.seen(name), told)
				}
				p.Admit()
				if err := st.Settle(t.Context()); err != nil {
					t.Fatal(err)
				}
				if want := map[bool]int{true: 1}[stored]; told != want || change.seen(name) != stored {
					t.Errorf("afterwards it is seen: %v, told %d times; want %v", change.seen(name), told, stored)
				}
				sameAsStored(t, r, st)
			})
		}
	}
	// Nobody need ask: the next change finds out.
	p.Order(storetest.Cut{Text: "COMMIT", After: true, Refuse: true})
	if _, err := r.Add(t.Context(), registry.NewDevice{Name: "last", Type: "box"}); signalbox.CodeOf(err) != "outcome_unknown" {
		t.Errorf("the change gives %v", err)
	}
	p.Admit()
	if _, err := r.Add(t.Context(), registry.NewDevice{Name: "last", Type: "box"}); signalbox.CodeOf(err) != "name_taken" {
		t.Errorf("the same again gives %v", err)
	}
	sameAsStored(t, r, st)
}

// sameAsStored compares memory with the table.
func sameAsStored(t *testing.T, r *registry.Registry, st *store.Store) {
	t.Helper()
	var stored, inMemory []string
	line := func(id signalbox.DeviceID, name, kind string, disabled bool, secret store.Secret) string {
		return fmt.Sprint(id, name, kind, disabled, secret)
	}
	err := st.Devices(t.Context(), func(d store.Device, _ *store.DeviceState) error {
		stored = append(stored, line(d.ID, d.Name, d.Type, d.Disabled, d.Secret))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Each(func(d *registry.Device) {
		secret, _ := d.Secret()
		inMemory = append(inMemory, line(d.ID, d.Name, d.Type(), d.Disabled(), secret))
	})
	if !slices.Equal(stored, inMemory) || r.Len() != len(stored) {
		t.Errorf("memory has\n%q\nthe table\n%q", inMemory, stored)
	}
}
