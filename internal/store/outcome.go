package store

import (
	"context"
	"errors"

	"signalbox"
)

// UnknownOutcome is the error of an Update whose connection broke while the server was
// committing it, when the server could not be asked since: all of it may be stored, or
// nothing. As long as this Store lives, Outcome can find out. Whoever would repeat the
// Update asks first:
//
//	if unknown, ok := errors.AsType[*store.UnknownOutcome](err); ok {
//		committed, err := st.Outcome(ctx, unknown)
//		…
//	}
//
// Who only keeps memory and database alike need not ask: see Tx.Then and Settle.
//
// It unwraps to a signalbox.Error of KindUnavailable. SQLite never gives it.
type UnknownOutcome struct {
	seq   int64
	cause error
	// The rest is guarded by Store.mu.
	known, committed bool
	then             []func()
}

// Error implements error.
func (u *UnknownOutcome) Error() string { return u.explained().Error() }

// Unwrap gives it as signalbox.Error.
func (u *UnknownOutcome) Unwrap() error { return u.explained() }

func (u *UnknownOutcome) explained() *signalbox.Error {
	return signalbox.Wrap(signalbox.KindUnavailable, "outcome_unknown", u.cause,
		"the connection to the database server was lost while a change was being stored, and whether it was is not known until the server is back: look then before doing it again")
}

// Settle finds out what became of every transaction so far and has what they gave to
// Tx.Then called. While the server is away and there is one whose end is not known, the error
// is of KindUnavailable: whoever changes what is kept in memory too, and looks at that
// before, refuses to.
func (s *Store) Settle(ctx context.Context) error {
	e, ok := s.engine.(*server)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.unknown == nil {
		return nil
	}
	return s.explain(e.connect(ctx))
}

// Outcome says whether the transaction of which an Update did not know the end was
// committed. While the server is away the error is of KindUnavailable: ask again.
func (s *Store) Outcome(ctx context.Context, u *UnknownOutcome) (committed bool, err error) {
	e, ok := s.engine.(*server)
	if !ok {
		return false, errors.New("this database has no unknown outcomes")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !u.known {
		if err := e.connect(ctx); err != nil {
			return false, s.explain(err)
		}
	}
	if !u.known {
		return false, errors.New("the outcome asked for belongs to another store")
	}
	return u.committed, nil
}
