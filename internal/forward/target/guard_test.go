package target

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"signalbox"
	"signalbox/internal/forward"
)

func TestGuardKnowsInnerAddresses(t *testing.T) {
	allow := []netip.Prefix{
		netip.MustParsePrefix("10.1.0.0/16"),
		netip.MustParsePrefix("::ffff:192.168.5.0/120"),
		netip.MustParsePrefix("fd00:7::/32"),
		netip.MustParsePrefix("fe80::/64"),
	}
	for _, c := range []struct {
		address string
		want    string // part of why not; "": allowed
	}{
		{"8.8.8.8", ""},
		{"1.1.1.1", ""},
		{"100.63.255.255", ""},
		{"100.128.0.0", ""},
		{"172.32.0.1", ""},
		{"2600::1", ""},
		{"::ffff:8.8.8.8", ""},
		{"64:ff9b::808:808", ""},
		{"2002:808:808::1", ""},
		{"10.1.2.3", ""},
		{"::ffff:10.1.2.3", ""},
		{"64:ff9b::a01:203", ""},
		{"192.168.5.9", ""},
		{"fd00:7::9", ""},
		{"fe80::1%eth0", ""},
		{"10.2.2.3", "private"},
		{"192.168.6.1", "private"},
		{"172.16.0.1", "private"},
		{"172.31.255.255", "private"},
		{"127.0.0.1", "loopback"},
		{"127.255.0.9", "loopback"},
		{"169.254.169.254", "link-local"},
		{"0.0.0.0", "unspecified"},
		{"0.1.2.3", "RFC 1122"},
		{"100.64.0.1", "carrier"},
		{"100.127.255.255", "carrier"},
		{"192.0.0.8", "reserved"},
		{"198.18.0.1", "measurements"},
		{"198.19.255.255", "measurements"},
		{"224.0.0.1", "multicast"},
		{"240.0.0.1", "reserved"},
		{"255.255.255.255", "broadcast"},
		{"::", "unspecified"},
		{"::1", "loopback"},
		{"::127.0.0.1", "loopback"},
		{"fc00::1", "private"},
		{"fd00:8::1", "private"},
		{"fe80:1::1", "link-local"},
		{"fec0::1", "2000::/3"},
		{"ff02::1", "multicast"},
		{"100::1", "2000::/3"},
		{"::ffff:127.0.0.1", "loopback"},
		{"::ffff:169.254.169.254", "link-local"},
		{"64:ff9b::a9fe:a9fe", "169.254.169.254"},
		{"64:ff9b::7f00:1", "127.0.0.1"},
		{"64:ff9b:1::808:808", "RFC 8215"},
		{"2002:a00:1::1", "10.0.0.1"},
		{"2001:0:a00:1::1", "10.0.0.1"},
		{"2001:0:808:808:0:0:80ff:fffe", "127.0.0.1"},
	} {
		t.Run(c.address, func(t *testing.T) {
			g := &guard{allow: allow}
			err := g.CheckLiteral(c.address)
			if c.want == "" {
				if err != nil {
					t.Errorf("it is refused: %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("it says %v, want %q", err, c.want)
			}
			if !errors.Is(err, forward.ErrTarget) || signalbox.KindOf(err) != signalbox.KindForbidden {
				t.Errorf("the error %v is of the wrong kind", err)
			}
			if err := (&guard{trusted: true}).CheckLiteral(c.address); err != nil {
				t.Errorf("the file may use it, and yet: %v", err)
			}
		})
	}
}

// nameServer answers questions for IPv4 addresses with those that it is given, one by one, and then
// with the last again and again. It knows no IPv6.
func nameServer(t *testing.T, answers ...string) *net.Resolver {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var asked atomic.Int64
	go func() {
		defer close(done)
		question := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			end := 12 // RFC 1035, 4.1: header, then labels up to an empty one, type and class
			for end < n && question[end] != 0 {
				end += int(question[end]) + 1
			}
			end += 5
			reply := append([]byte(nil), question[:end]...)
			binary.BigEndian.PutUint16(reply[2:], 0x8180)
			copy(reply[6:12], make([]byte, 6))
			if question[end-3] == 1 { // A
				i := min(int(asked.Add(1))-1, len(answers)-1)
				reply[7] = 1
				reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, netip.MustParseAddr(answers[i]).AsSlice()...)
			}
			conn.WriteTo(reply, from)
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func TestGuardChecksWhereANameLeads(t *testing.T) {
	there := serve(t)
	_, port, _ := net.SplitHostPort(there.Addr().String())
	only := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for _, network := range []string{"tcp", "udp"} {
		t.Run(network, func(t *testing.T) {
			g := &guard{timeout: patience, resolver: nameServer(t, "127.0.0.1")}
			_, err := g.DialContext(within(t), network, net.JoinHostPort("inner.example", port))
			if err == nil || !strings.Contains(err.Error(), "inner.example") || !strings.Contains(err.Error(), "127.0.0.1 is loopback") ||
				!strings.Contains(err.Error(), "forward.allow") || !errors.Is(err, forward.ErrTarget) {
				t.Errorf("a name that leads to loopback: %v", err)
			}
			if _, err := g.DialContext(within(t), network, "localhost:"+port); !errors.Is(err, forward.ErrTarget) {
				t.Errorf("localhost: %v", err)
			}
			if _, err := g.DialContext(within(t), network, ":"+port); !errors.Is(err, forward.ErrTarget) {
				t.Errorf("no host: %v", err)
			}
			g.allow = only("127.0.0.0/8")
			conn, err := g.DialContext(within(t), network, net.JoinHostPort("inner.example", port))
			if err != nil {
				t.Fatalf("allowed, and yet: %v", err)
			}
			conn.Close()
		})
	}
	t.Run("a name that changes its mind", func(t *testing.T) {
		g := &guard{timeout: patience, allow: only("127.0.0.1/32"), resolver: nameServer(t, "127.0.0.1", "127.0.0.2")}
		conn, err := g.DialContext(within(t), "tcp", net.JoinHostPort("rebinding.example", port))
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if _, err := g.DialContext(within(t), "tcp", net.JoinHostPort("rebinding.example", port)); !errors.Is(err, forward.ErrTarget) {
			t.Errorf("the second answer was used: %v", err)
		}
	})
	t.Run("other networks", func(t *testing.T) {
		g := &guard{trusted: true, timeout: patience}
		if _, err := g.DialContext(within(t), "unix", "/run/x.sock"); err == nil {
			t.Error("a socket file was dialled")
		}
	})
}

// What is set for programs in general does not lead a forwarder's requests elsewhere.
func TestGuardUsesNoProxyOfTheEnvironment(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("http_proxy", "http://127.0.0.1:1")
	if (&guard{}).transport(nil).Proxy != nil {
		t.Error("the transport asks for a proxy")
	}
}

func TestGuardRefusesRedirects(t *testing.T) {
	var followed atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			followed.Store(true)
		}
		http.Redirect(w, r, "/elsewhere?token=hidden", http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	transport := (&guard{trusted: true, timeout: patience}).transport(nil)
	defer transport.CloseIdleConnections()
	request, _ := http.NewRequestWithContext(within(t), http.MethodPost, server.URL, nil)
	_, err := (&http.Client{Transport: transport, CheckRedirect: refuseRedirect}).Do(request)
	if outer, is := errors.AsType[*url.Error](err); is {
		err = outer.Err // what is around it repeats the address, with its query
	}
	if err == nil || !strings.Contains(err.Error(), "redirects (307) to "+server.URL+"/elsewhere;") || strings.Contains(err.Error(), "hidden") {
		t.Errorf("the redirect gave %v", err)
	}
	if followed.Load() {
		t.Error("the redirect was followed")
	}
}

func TestGuardTLSFiles(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		files   forward.TLS
		trusted bool
		want    string
	}{
		{name: "none"},
		{name: "through the API", files: forward.TLS{CA: empty}, want: "configuration alone"},
		{name: "missing", files: forward.TLS{CA: empty + "x"}, trusted: true, want: "cannot be read"},
		{name: "no certificate", files: forward.TLS{CA: empty}, trusted: true, want: "no certificate"},
		{name: "half a pair", files: forward.TLS{Cert: empty}, trusted: true, want: "go together"},
		{name: "no pair", files: forward.TLS{Cert: empty, Key: empty}, trusted: true, want: "cannot be used"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config, err := (&guard{trusted: c.trusted}).tlsConfig(&forward.Spec{TLS: c.files}, "h.example")
			if c.want == "" {
				if err != nil || config.ServerName != "h.example" || config.MinVersion < 0x0303 {
					t.Errorf("it gave %+v, %v", config, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, forward.ErrTarget) {
				t.Errorf("it gave %v, want %q", err, c.want)
			}
		})
	}
}
