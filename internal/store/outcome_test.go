package store_test

import (
	"errors"
	"testing"

	"signalbox"
	"signalbox/internal/store"
	"signalbox/internal/store/storetest"
)

// TestThen: what is given to Then is called once, if and only if the transaction is stored, and
// before the next one begins, however late that is known.
func TestThen(t *testing.T) { eachServer(t, testThen) }

func testThen(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	st := db.Open(t, through(db, p)).Store
	id := 0
	// store inserts a row and counts in told what Then gives.
	insertThen := func(told *int) error {
		id++
		return st.Update(t.Context(), func(tx *store.Tx) error {
			tx.Then(nil)
			tx.Then(func() { *told++ })
			return insertRow(t.Context(), tx, id, []byte{1})
		})
	}
	var first int
	if err := insertThen(&first); err != nil || first != 1 {
		t.Fatalf("told %d times, %v", first, err)
	}
	id-- // a duplicate
	if err := insertThen(&first); err == nil || first != 1 {
		t.Fatalf("a transaction that failed: told %d times in all, %v", first, err)
	}
	ways := map[string]func(*store.UnknownOutcome) error{
		"Settle":     func(*store.UnknownOutcome) error { return st.Settle(t.Context()) },
		"Outcome":    func(u *store.UnknownOutcome) error { _, err := st.Outcome(t.Context(), u); return err },
		"background": func(*store.UnknownOutcome) error { store.Watch(st); return nil },
	}
	for way, find := range ways {
		for _, stored := range []bool{false, true} {
			for _, away := range []bool{false, true} {
				told := 0
				p.Order(storetest.Cut{Text: "COMMIT", After: stored, Refuse: away})
				err := insertThen(&told)
				unknown, is := errors.AsType[*store.UnknownOutcome](err)
				if is != away || !is && (err == nil) != stored {
					t.Fatalf("stored %v, away %v: %v", stored, away, err)
				}
				if is {
					if err := st.Settle(t.Context()); signalbox.KindOf(err) != signalbox.KindUnavailable || told != 0 {
						t.Errorf("while the server is away Settle gives %v, told %d times", err, told)
					}
					p.Admit()
					if err := find(unknown); err != nil {
						t.Fatalf("%s: %v", way, err)
					}
				}
				if want := map[bool]int{true: 1}[stored]; told != want {
					t.Errorf("%s, stored %v, away %v: told %d times, want %d", way, stored, away, told, want)
				}
				if err := st.Settle(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	}
	// The next transaction finds memory as the database is.
	told := 0
	p.Order(storetest.Cut{Text: "COMMIT", After: true, Refuse: true})
	if _, is := errors.AsType[*store.UnknownOutcome](insertThen(&told)); !is {
		t.Fatal("the outcome is known")
	}
	p.Admit()
	err := st.Update(t.Context(), func(*store.Tx) error {
		if told != 1 {
			t.Errorf("the next transaction begins while Then was called %d times", told)
		}
		return nil
	})
	if err != nil || told != 1 {
		t.Errorf("told %d times in the end, %v", told, err)
	}
}

// TestOutcomeAfterAMoment: a server that is back while a commit asks for its outcome leaves no doubt.
func TestOutcomeAfterAMoment(t *testing.T) { eachServer(t, testOutcomeAfterAMoment) }

func testOutcomeAfterAMoment(t *testing.T, kind storetest.Kind) {
	t.Helper()
	db := storetest.New(t, kind)
	p := storetest.NewProxy(t, db)
	st := db.Open(t, through(db, p)).Store
	store.AskFor(st, patience)
	for i, after := range []bool{false, true} {
		p.Order(storetest.Cut{Text: "COMMIT", After: after, Refuse: true})
		refused := p.Refusals()
		ended := make(chan error, 1)
		go func() { ended <- insert(t, st, i+1) }()
		<-refused // it has asked once
		p.Admit()
		if err := <-ended; (err == nil) != after || err != nil && signalbox.CodeOf(err) == "outcome_unknown" {
			t.Errorf("after it %v: %v", after, err)
		}
		if got := present(t, st, i+1); got != after {
			t.Errorf("after it %v: the row is there: %v", after, got)
		}
	}
}
