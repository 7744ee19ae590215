package session_test

import (
	"sync"
	"testing"

	"signalbox"
	"signalbox/internal/session"
)

func TestNewestWins(t *testing.T) {
	table := session.New()
	old := &session.Session{ID: table.NextID(), Device: 5}
	fresh := &session.Session{ID: table.NextID(), Device: 5}
	if replaced, ok := table.Attach(old); replaced != nil || !ok {
		t.Errorf("first: %v, %v", replaced, ok)
	}
	if replaced, ok := table.Attach(fresh); replaced != old || !ok {
		t.Errorf("second: %v, %v", replaced, ok)
	}
	if replaced, ok := table.Attach(old); replaced != nil || ok {
		t.Errorf("the older one came back: %v, %v", replaced, ok)
	}
	if table.Detach(old) || table.Get(5) != fresh || table.Len() != 1 || len(table.All()) != 1 {
		t.Error("the end of the older one touched the newer")
	}
	if !table.Detach(fresh) || table.Detach(fresh) || table.Get(5) != nil || table.Len() != 0 || len(table.All()) != 0 {
		t.Error("the newer one did not go, or went twice")
	}
}

func TestNumbersGrowAcrossRestarts(t *testing.T) {
	first := session.New()
	var last uint64
	for range 100 {
		last = first.NextID()
	}
	if next := session.New().NextID(); next+1000 < last {
		t.Errorf("a later table begins at %d, an earlier one ended at %d", next, last)
	}
}

func TestConcurrentSessions(t *testing.T) {
	table := session.New()
	var group sync.WaitGroup
	newest := make([]*session.Session, 8*100)
	for w := range 8 {
		group.Go(func() {
			for i := range 100 {
				for range 3 {
					s := &session.Session{ID: table.NextID(), Device: signalbox.DeviceID(w*100 + i)}
					if _, ok := table.Attach(s); !ok {
						t.Error("a newer session was refused")
					}
					newest[w*100+i] = s
				}
				// A device that everyone fights for.
				s := &session.Session{ID: table.NextID(), Device: 1000}
				table.Attach(s)
				table.Detach(s)
				_ = table.All()
			}
		})
	}
	group.Wait()
	if s := table.Get(1000); s != nil {
		t.Errorf("session %d was left", s.ID)
	}
	if table.Len() != len(newest) || len(table.All()) != len(newest) {
		t.Errorf("%d sessions, want %d", table.Len(), len(newest))
	}
	for i, s := range newest {
		if table.Get(signalbox.DeviceID(i)) != s {
			t.Errorf("device %d has not its newest session", i)
		}
	}
}
