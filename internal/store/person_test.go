package store_test

import (
	"reflect"
	"testing"
	"time"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

var made = time.Date(2024, 5, 6, 7, 8, 9, 123e6, time.UTC)

func people(t *testing.T, s *store.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := s.People(t.Context(), func(u signalbox.User, hash string) error {
		if !u.CreatedAt.Equal(made) || u.ID == 0 {
			t.Errorf("user %+v was made at another time or has no ID", u)
		}
		all[u.Name] = hash
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func logins(t *testing.T, s *store.Store) (all [][32]byte, expires []time.Time) {
	t.Helper()
	err := s.Logins(t.Context(), func(hash [32]byte, _ int64, _, end time.Time) error {
		all, expires = append(all, hash), append(expires, end)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all, expires
}

func addPerson(t *testing.T, s *store.Store, name string) int64 {
	t.Helper()
	var id int64
	if err := s.AddPerson(t.Context(), signalbox.User{Name: name, CreatedAt: made}, "hash of "+name, func(n int64) { id = n }); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestPeople(t *testing.T) { storetest.Each(t, testPeople) }

func testPeople(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	ann, bob := addPerson(t, s, "ann"), addPerson(t, s, "bob")
	never := func(int64) { t.Error("what is not stored is said to be") }
	err := s.AddPerson(t.Context(), signalbox.User{Name: "ann", CreatedAt: made}, "other", never)
	if signalbox.KindOf(err) != signalbox.KindConflict || signalbox.CodeOf(err) != "name_taken" {
		t.Errorf("a taken name gives %v", err)
	}
	for i, id := range []int64{ann, bob, bob} {
		if err := s.AddLogin(t.Context(), [32]byte{byte(i)}, id, made, made.Add(time.Hour), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetPersonHash(t.Context(), ann, "new", nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := logins(t, s); len(got) != 2 {
		t.Errorf("after ann's new password the logins are %v, want bob's two", got)
	}
	if err := s.RemovePerson(t.Context(), bob, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := logins(t, s); len(got) != 0 {
		t.Errorf("after bob is gone the logins are %v, want none", got)
	}
	if got, want := people(t, s), map[string]string{"ann": "new"}; !reflect.DeepEqual(got, want) {
		t.Errorf("people are %v, want %v", got, want)
	}
	if again := addPerson(t, s, "bob"); again <= bob {
		t.Errorf("the ID %d was used again after %d", again, bob)
	}
}

func TestTokens(t *testing.T) { storetest.Each(t, testTokens) }

func testTokens(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	a := signalbox.Token{Name: "a", Scope: signalbox.ScopeRead, CreatedBy: "ann", CreatedAt: made}
	b := signalbox.Token{Name: "b", Scope: signalbox.ScopeAdmin, CreatedBy: "bob", CreatedAt: made, ExpiresAt: made.Add(time.Hour)}
	for i, one := range []*signalbox.Token{&a, &b} {
		if err := s.AddToken(t.Context(), *one, [32]byte{byte(i) + 1}, func(id int64) { one.ID = id }); err != nil {
			t.Fatal(err)
		}
	}
	never := func(int64) { t.Error("what is not stored is said to be") }
	if err := s.AddToken(t.Context(), a, [32]byte{3}, never); signalbox.KindOf(err) != signalbox.KindConflict {
		t.Errorf("a taken name gives %v", err)
	}
	if err := s.AddToken(t.Context(), signalbox.Token{Name: "c"}, [32]byte{2}, never); err == nil {
		t.Error("two tokens with one secret were stored")
	}
	b.LastUsed = made.Add(time.Minute)
	if err := s.Touch(t.Context(), map[int64]time.Time{b.ID: b.LastUsed, 99: made}, nil); err != nil {
		t.Fatal(err)
	}
	read := func() (all []signalbox.Token, hashes [][32]byte) {
		if err := s.Tokens(t.Context(), func(t signalbox.Token, hash [32]byte) error {
			all, hashes = append(all, t), append(hashes, hash)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return all, hashes
	}
	all, hashes := read()
	if want := []signalbox.Token{a, b}; !reflect.DeepEqual(all, want) {
		t.Errorf("tokens are %+v, want %+v", all, want)
	}
	if want := [][32]byte{{1}, {2}}; !reflect.DeepEqual(hashes, want) {
		t.Errorf("hashes are %v, want %v", hashes, want)
	}
	if err := s.RemoveToken(t.Context(), a.ID, nil); err != nil {
		t.Fatal(err)
	}
	if all, _ := read(); len(all) != 1 || all[0].Name != "b" {
		t.Errorf("tokens are %+v, want b alone", all)
	}
}

func TestLogins(t *testing.T) { storetest.Each(t, testLogins) }

func testLogins(t *testing.T, db *storetest.Database) {
	t.Helper()
	s := db.Open(t).Store
	ann := addPerson(t, s, "ann")
	for i := range 3 {
		// Stored newest first, read oldest first.
		if err := s.AddLogin(t.Context(), [32]byte{byte(i)}, ann, made.Add(-time.Duration(i)*time.Minute), made.Add(time.Hour), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Touch(t.Context(), nil, map[[32]byte]time.Time{{1}: made.Add(2 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddLogin(t.Context(), [32]byte{7}, ann, made.Add(time.Minute), made.Add(time.Hour), [][32]byte{{2}}, nil); err != nil {
		t.Fatal(err)
	}
	// A login that cannot be stored removes none.
	if err := s.AddLogin(t.Context(), [32]byte{7}, ann, made, made, [][32]byte{{0}}, nil); err == nil {
		t.Error("two logins with one secret were stored")
	}
	all, expires := logins(t, s)
	if want := [][32]byte{{1}, {0}, {7}}; !reflect.DeepEqual(all, want) {
		t.Errorf("logins are %v, want %v", all, want)
	}
	if want := []time.Time{made.Add(2 * time.Hour), made.Add(time.Hour), made.Add(time.Hour)}; !reflect.DeepEqual(expires, want) {
		t.Errorf("they end at %v, want %v", expires, want)
	}
	if err := s.RemoveLogins(t.Context(), all[:2], nil); err != nil {
		t.Fatal(err)
	}
	if left, _ := logins(t, s); len(left) != 1 {
		t.Errorf("logins are %v, want one", left)
	}
}
