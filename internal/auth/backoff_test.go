package auth

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

var (
	home  = netip.MustParseAddr("192.0.2.1")
	away  = netip.MustParseAddr("198.51.100.7")
	six   = netip.MustParseAddr("2001:db8:1:2::1")
	six2  = netip.MustParseAddr("2001:db8:1:2:ffff::2%eth0")
	other = netip.MustParseAddr("2001:db8:1:3::1")
)

func failures(b *Backoff, n int, name string, addr netip.Addr) {
	for range n {
		b.Fail(name, addr, time.Now())
	}
}

func wantDelay(t *testing.T, b *Backoff, name string, addr netip.Addr, want time.Duration) {
	t.Helper()
	if got := b.Delay(name, addr, time.Now()); got != want {
		t.Errorf("delay of %s at %s is %s, want %s", name, addr, got, want)
	}
}

func TestBackoffGrowsAndFades(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackoff(BackoffConfig{Max: 30 * time.Second})
		var waits []time.Duration
		for range 12 {
			wait := b.Fail("a", home, time.Now())
			waits = append(waits, wait)
			wantDelay(t, b, "a", home, wait)
			time.Sleep(wait)
			wantDelay(t, b, "a", home, 0)
		}
		s := time.Second
		if want := []time.Duration{0, 0, 0, 0, s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s, 30 * s}; !reflect.DeepEqual(waits, want) {
			t.Errorf("waits are %v, want %v", waits, want)
		}
		time.Sleep(15*time.Minute - 30*s - 1)
		if wait := b.Fail("a", home, time.Now()); wait != 30*s {
			t.Errorf("just before fading the wait is %s, want 30s", wait)
		}
		time.Sleep(15 * time.Minute)
		if wait := b.Fail("a", home, time.Now()); wait != 0 {
			t.Errorf("after fading the first wait is %s, want none", wait)
		}
	})
}

func TestBackoffRefusedDoesNotExtend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackoff(BackoffConfig{})
		failures(b, 7, "a", home) // two of them during the first wait
		for range 10 {
			wantDelay(t, b, "a", home, time.Second)
		}
		if b.Failures() != 7 || b.Refused() != 10 {
			t.Errorf("counted %d failures and %d refused, want 7 and 10", b.Failures(), b.Refused())
		}
		time.Sleep(time.Second)
		wantDelay(t, b, "a", home, 0)
	})
}

func TestBackoffPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackoff(BackoffConfig{})
		failures(b, 5, "a", home)
		wantDelay(t, b, "a", away, 0) // never per name alone
		wantDelay(t, b, "b", home, time.Second)
		wantDelay(t, b, "a", netip.MustParseAddr("::ffff:192.0.2.1"), time.Second)

		for i := range 5 {
			b.Fail(fmt.Sprint("name", i), six, time.Now())
		}
		wantDelay(t, b, "x", six2, time.Second) // one /64 is one address
		wantDelay(t, b, "x", other, 0)

		failures(b, 50, "a", netip.Addr{})
		wantDelay(t, b, "a", netip.Addr{}, 0) // a local socket
		b.Succeed("a", netip.Addr{})
	})
}

func TestBackoffKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackoff(BackoffConfig{})
		b.Succeed("a", home)
		failures(b, 20, "b", home)
		wantDelay(t, b, "a", home, 0) // spared the wait of the address
		wantDelay(t, b, "b", home, time.Second)
		failures(b, 20, "a", home)
		wantDelay(t, b, "a", home, time.Second) // each guess at a password counts
	})
}

func TestBackoffSuccessForgetsPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBackoff(BackoffConfig{})
		for range 4 {
			b.Fail("a", home, time.Now())
		}
		b.Succeed("a", home)
		// The pair begins anew; the address does not: it has four.
		if wait := b.Fail("a", home, time.Now()); wait != time.Second {
			t.Errorf("the address's fifth failure gives %s, want 1s", wait)
		}
		pair, address := b.places("a", home)
		if got := b.failing.find(pair).count; got != 1 {
			t.Errorf("the pair has %d failures, want 1", got)
		}
		if got := b.failing.find(address).count; got != 5 {
			t.Errorf("the address has %d failures, want 5", got)
		}
	})
}

func TestBackoffIsBounded(t *testing.T) {
	const size = 64
	b := NewBackoff(BackoffConfig{Size: size})
	now := time.Now()
	b.Succeed("good", home)
	for i := range 10_000 {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		for range 6 {
			b.Fail("x", addr, now)
		}
		if b.Delay("x", addr, now) == 0 {
			t.Fatalf("address %d is not delayed", i)
		}
		if i%3 == 0 {
			b.Succeed("x", addr)
			b.Succeed("good", home)
		}
	}
	for name, r := range map[string]*recent{"failing": &b.failing, "known": &b.known} {
		if len(r.index) > size/2 || len(r.entries) > size/2+1 || len(r.index)+len(r.free)+1 != len(r.entries) {
			t.Errorf("%s holds %d places, %d entries and %d free ones; at most %d are allowed", name, len(r.index), len(r.entries), len(r.free), size/2)
		}
		// The ring holds each place once, both ways round.
		n := 0
		for i := r.entries[0].next; i != 0; i = r.entries[i].next {
			if r.entries[r.entries[i].next].prev != i || r.index[r.entries[i].place] != i {
				t.Fatalf("%s: entry %d is chained wrong", name, i)
			}
			n++
		}
		if n != len(r.index) {
			t.Errorf("%s: the ring has %d entries, the index %d", name, n, len(r.index))
		}
	}
	for range 20 {
		b.Fail("bad", home, now)
	}
	if wait := b.Delay("good", home, now); wait != 0 {
		t.Errorf("a place that keeps succeeding is delayed by %s", wait)
	}
}

func TestBackoffDoesNotAllocate(t *testing.T) {
	b := NewBackoff(BackoffConfig{})
	now := time.Now()
	failures(b, 9, "a", six)
	b.Succeed("b", home)
	if n := testing.AllocsPerRun(100, func() {
		b.Delay("a", six, now)
		b.Fail("a", six, now)
		b.Delay("b", home, now)
		b.Succeed("b", home)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkBackoffRefused(b *testing.B) {
	o := NewBackoff(BackoffConfig{})
	now := time.Now()
	failures(o, 9, "esp01", home)
	b.ReportAllocs()
	for b.Loop() {
		if o.Delay("esp01", home, now) == 0 {
			b.Fatal("not refused")
		}
	}
}

func BenchmarkBackoffSucceed(b *testing.B) {
	o := NewBackoff(BackoffConfig{})
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		o.Delay("esp01", home, now)
		o.Succeed("esp01", home)
	}
}

func BenchmarkBackoffFail(b *testing.B) {
	o := NewBackoff(BackoffConfig{})
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		o.Fail("esp01", home, now)
	}
}
