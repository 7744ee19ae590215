package loop

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// shakeQueue is how many handshakes may wait for each that is being done.
	shakeQueue = 16
	// shakeShare is which part of both one address may have.
	shakeShare = 4
)

// shakes gives TLS handshakes their turn. Those of one address stand in a queue of their own and have a share of the
// places only: others need not wait for them.
type shakes struct {
	places chan struct{} // one for each that is being done
	share  int           // places of one address
	most   int           // done and waiting

	mu      sync.Mutex
	present int // done and waiting
	here    map[netip.Addr]*shakesHere
}

// shakesHere are the handshakes of one address.
type shakesHere struct {
	places  chan struct{}
	present int // guarded by shakes.mu; the last one takes this out of the map
}

func (s *shakes) init(places int) {
	s.places = make(chan struct{}, places)
	s.share, s.most = max(places/shakeShare, 1), places*(1+shakeQueue)
	s.here = make(map[netip.Addr]*shakesHere)
}

// begin waits for the turn of a handshake with addr, until ended is closed or limit is over, and gives the function
// that ends it. The error is ErrBusy.
func (s *shakes) begin(addr netip.Addr, ended <-chan struct{}, limit time.Duration) (end func(), err error) {
	if addr.Is6() { // who has one address of a network has them all
		addr = netip.PrefixFrom(addr.WithZone(""), 64).Masked().Addr()
	}
	here := s.enter(addr)
	if here == nil {
		return nil, ErrBusy
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	take := func(places chan struct{}) bool {
		select {
		case places <- struct{}{}:
			return true
		case <-ended:
		case <-timer.C:
		}
		return false
	}
	if !take(here.places) {
		s.leave(addr, here)
		return nil, ErrBusy
	}
	if !take(s.places) {
		<-here.places
		s.leave(addr, here)
		return nil, ErrBusy
	}
	return func() {
		<-s.places
		<-here.places
		s.leave(addr, here)
	}, nil
}

func (s *shakes) enter(addr netip.Addr) *shakesHere {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := s.here[addr]
	if s.present >= s.most || here != nil && here.present >= s.most/shakeShare {
		return nil
	}
	s.present++
	if here == nil {
		here = &shakesHere{places: make(chan struct{}, s.share)}
		s.here[addr] = here
	}
	here.present++
	return here
}

func (s *shakes) leave(addr netip.Addr, here *shakesHere) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.present--
	if here.present--; here.present == 0 {
		delete(s.here, addr)
	}
}
