package api

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"signalbox"
	"signalbox/internal/auth"
)

// CookieName is the cookie that holds a person's browser login.
const CookieName = "signalbox_session"

// Gate tells who sends a request, and begins and ends browser logins. Its methods may be
// called from any goroutine.
type Gate struct {
	people  *auth.People
	proxies []netip.Prefix
}

// NewGate makes a gate. proxies are the networks of reverse proxies whose
// X-Forwarded-For and X-Forwarded-Proto are believed.
func NewGate(people *auth.People, proxies []netip.Prefix) *Gate {
	return &Gate{people: people, proxies: proxies}
}

type localKey struct{}

// Local gives every request that passes through it the authority of an admin named
// «local». It is for the hub's own Unix socket and for calls inside the process.
func Local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), localKey{}, true)))
	})
}

func isLocal(r *http.Request) bool { return r.Context().Value(localKey{}) != nil }

// Identify tells who sends r; KindUnauthorized for nobody that is known. A browser login
// that this use prolongs gets a new cookie in w.
func (g *Gate) Identify(w http.ResponseWriter, r *http.Request) (auth.Identity, error) {
	if isLocal(r) {
		return auth.Identity{Name: "local", Scope: signalbox.ScopeAdmin}, nil
	}
	if secret, ok := bearer(r); ok {
		return g.people.AuthenticateToken(secret)
	}
	cookie, err := r.Cookie(CookieName)
	if err != nil {
		return auth.Identity{}, signalbox.Errorf(signalbox.KindUnauthorized, "unauthorized",
			"a credential is needed: log in, or send the header «Authorization: Bearer» with a token")
	}
	who, err := g.people.AuthenticateCookie(cookie.Value)
	if err == nil && who.Renewed {
		g.setCookie(w, r, cookie.Value, who.Expires)
	}
	return who, err
}

// bearer gives the token of r's Authorization header (RFC 6750, section 2.1).
func bearer(r *http.Request) (secret string, ok bool) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimSpace(secret), strings.EqualFold(scheme, "Bearer")
}

// Login checks a person's password and begins a browser login, whose cookie is put into
// w. Errors are those of auth.People.Login.
func (g *Gate) Login(w http.ResponseWriter, r *http.Request, name, password string) error {
	cookie, err := g.people.Login(r.Context(), name, password, g.Address(r))
	if err != nil {
		return err
	}
	g.setCookie(w, r, cookie.Secret, cookie.Expires)
	return nil
}

// Logout ends the browser login of r and takes its cookie away.
func (g *Gate) Logout(w http.ResponseWriter, r *http.Request) error {
	cookie, err := r.Cookie(CookieName)
	if err != nil {
		return nil //nolint:nilerr // without a cookie there is nothing to end
	}
	if err := g.people.Logout(r.Context(), cookie.Value); err != nil {
		return err
	}
	g.setCookie(w, r, "", time.Unix(0, 0))
	return nil
}

func (g *Gate) setCookie(w http.ResponseWriter, r *http.Request, secret string, expires time.Time) {
	c := &http.Cookie{
		Name: CookieName, Value: secret, Path: "/", Expires: expires,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: g.Secure(r),
	}
	if secret == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// Secure reports whether the client speaks TLS, to the hub or to a trusted proxy.
func (g *Gate) Secure(r *http.Request) bool {
	if r.TLS != nil {
		return true
	}
	return g.trusted(peer(r)) && strings.EqualFold(strings.TrimSpace(r.Header.Get("X-Forwarded-Proto")), "https")
}

// OwnOrigin reports whether r comes from a page of the hub itself, by its Origin header (RFC 6454,
// section 7): the host is that which was asked, at a trusted proxy that which the proxy says was
// asked. A page without TLS is another origin than a hub with it; the other way round a proxy may
// speak TLS for the hub.
func (g *Gate) OwnOrigin(r *http.Request) bool {
	origins := r.Header.Values("Origin")
	if len(origins) != 1 {
		return false
	}
	u, err := url.Parse(origins[0])
	if err != nil || u.Host == "" || (u.Scheme != "https" && (u.Scheme != "http" || g.Secure(r))) {
		return false
	}
	hosts := []string{r.Host}
	if g.trusted(peer(r)) {
		if h := strings.TrimSpace(r.Header.Get("X-Forwarded-Host")); h != "" {
			hosts = append(hosts, h)
		}
	}
	port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	return slices.ContainsFunc(hosts, func(h string) bool {
		return strings.EqualFold(strings.TrimSuffix(h, port), strings.TrimSuffix(u.Host, port))
	})
}

// Address is the client's network address: the peer's or, if that is a trusted proxy, the
// right-most address of X-Forwarded-For that is none. It is the zero Addr for a Unix
// socket.
func (g *Gate) Address(r *http.Request) netip.Addr {
	at := peer(r)
	if !g.trusted(at) {
		return at
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		a, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil {
			break
		}
		at = a.Unmap().WithZone("")
		if !g.trusted(at) {
			break
		}
	}
	return at
}

func (g *Gate) trusted(a netip.Addr) bool {
	return a.IsValid() && slices.ContainsFunc(g.proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// peer is the address of the other end of the connection, the zero Addr without one.
func peer(r *http.Request) netip.Addr {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}

// sameMachine reports whether the client runs on this machine and says so itself: a
// request that a proxy passed on does not count, nor one for a name that some page
// outside made to mean this machine.
func (g *Gate) sameMachine(r *http.Request) bool {
	if isLocal(r) {
		return true
	}
	for _, passedOn := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Forwarded", "Via"} {
		if r.Header.Get(passedOn) != "" {
			return false
		}
	}
	if !peer(r).IsLoopback() {
		return false
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.IsLoopback()
}
