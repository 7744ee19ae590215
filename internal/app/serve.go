package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"signalbox"
	"signalbox/internal/gateway/loop"
	"signalbox/internal/gateway/ws"
)

// transports are the open doors.
type transports struct {
	doors   []door // opened by Listen
	served  bool   // by Serve
	public  *limitedListener
	http    *http.Server
	local   localServer
	group   *loop.Group
	sockets *ws.Server
}

// door is one listener and who serves it.
type door struct {
	key    string // in addresses.json
	listen net.Listener
	serve  func(ctx context.Context, l net.Listener) error
}

// Listen opens the doors, unless they are open: HTTP, devices, and the socket in the data
// directory. Whoever connects waits until Serve. It and Serve are called by one goroutine.
func (a *App) Listen(ctx context.Context) error {
	if a.doors != nil {
		return nil
	}
	doors, err := a.openDoors(ctx)
	if err == nil {
		a.doors = doors
		return nil
	}
	for _, d := range doors {
		err = errors.Join(err, d.listen.Close())
	}
	for _, g := range a.groups() {
		err = errors.Join(err, g.Close(ctx))
	}
	return err
}

// groups are the loops of device connections, as far as they are there.
func (a *App) groups() []*loop.Group {
	var all []*loop.Group
	for _, g := range []*loop.Group{a.group, a.mqtt.group} {
		if g != nil {
			all = append(all, g)
		}
	}
	return all
}

// Serve serves at the doors, which it opens if Listen has not. ready is called once all of
// them accept, with their addresses. Serve is called once, and returns when ctx has ended
// and all has stopped in order:
//
//  1. no new connections; /readyz says so
//  2. devices are told that the hub goes away and are disconnected; HTTP requests under way
//     end, waits and streams are cut short
//  3. Close: the roads, the log with all it holds, the store
//
// Nothing acknowledged is lost, whenever it is killed.
func (a *App) Serve(ctx context.Context, ready func(addresses map[string]string)) error {
	if err := a.Listen(ctx); err != nil {
		return err
	}
	a.served = true
	a.files.tell(a.logger)
	a.tellPlain(ctx)
	a.forward.begin()
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	parts, serving := errgroup.WithContext(serving)
	for _, d := range a.doors {
		parts.Go(func() error {
			if err := d.serve(serving, d.listen); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, loop.ErrStopped) {
				return fmt.Errorf("serve %s: %w", d.key, err)
			}
			return nil
		})
	}
	err := a.writeAddresses()
	if err == nil && ready != nil {
		ready(a.Addresses())
	}
	if err == nil {
		<-serving.Done()
	}
	a.logger.Info("stopping", "reason", stopReason(ctx, err), "within", a.cfg.ShutdownTimeout)
	a.beginStop()
	stop, stopCancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.ShutdownTimeout*3/4)
	defer stopCancel()
	a.closeDoors(stop)
	cancel()
	return errors.Join(err, parts.Wait(), os.Remove(a.addressesFile()), os.Remove(filepath.Join(a.cfg.Data, SocketName)))
}

// stopReason tells why the hub stops. A ctx that was ended with a cause gives that: the
// signal, for instance.
func stopReason(ctx context.Context, err error) string {
	switch cause := context.Cause(ctx); {
	case err != nil:
		return "the start failed"
	case cause == nil:
		return "a listener failed"
	case errors.Is(cause, context.Canceled):
		return "asked to"
	default:
		return cause.Error()
	}
}

// closeUnserved closes what Listen opened when Serve was not called.
func (a *App) closeUnserved() error {
	if a.served || a.doors == nil {
		return nil
	}
	var errs []error
	for _, d := range a.doors {
		errs = append(errs, d.listen.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), logGrace)
	defer cancel()
	for _, g := range a.groups() {
		errs = append(errs, g.Close(ctx))
	}
	return errors.Join(append(errs, os.Remove(filepath.Join(a.cfg.Data, SocketName)))...)
}

// openDoors gives those it has opened with an error, too.
func (a *App) openDoors(ctx context.Context) (doors []door, err error) {
	d := a.cfg.Devices
	a.group, err = loop.New(loop.Config{
		OutboxBytes: d.Outbox, HandshakeTimeout: d.HandshakeTimeout, Handshakes: d.TLS.Handshakes, MaxSockets: a.files.sockets, Logger: a.logger,
	})
	if err != nil {
		return nil, err
	}
	a.sockets = ws.NewServer(ws.Config{
		HandshakeTimeout: d.HandshakeTimeout, MessageBytes: d.MaxFrame, PingInterval: d.PingInterval, PingMisses: d.PingMisses, Gate: a.gateway,
	}, a.gateway)
	a.transports.public = newLimitedListener(a.files.http, a.cfg.HTTP.ConnectionsPerAddress, a.cfg.HTTP.TrustedProxies)
	if err := a.register(a.transportMetrics()); err != nil {
		return nil, err
	}
	open := func(key, setting, address string, serve func(context.Context, net.Listener) error) {
		if err != nil || address == "" {
			return
		}
		var l net.Listener
		if l, err = listen(ctx, setting, address); err == nil {
			if key == "http" {
				a.transports.public.Listener = l
				l = a.transports.public
			}
			doors = append(doors, door{key: key, listen: l, serve: serve})
			a.setAddress(key, l.Addr())
		}
	}
	open("devices", "devices.listen", d.Listen, func(ctx context.Context, l net.Listener) error { return a.group.Serve(ctx, l, a.sockets) })
	var deviceTLS *tls.Config
	if d.TLS.Listen != "" && err == nil {
		deviceTLS, err = certificate(d.TLS.Cert, d.TLS.Key)
	}
	open("devices_tls", "devices.tls.listen", d.TLS.Listen, func(ctx context.Context, l net.Listener) error {
		return a.group.ServeTLS(ctx, l, deviceTLS, a.sockets)
	})
	if err == nil {
		var more []door
		more, err = a.openMQTTDoors(ctx, a.from)
		doors = append(doors, more...)
	}
	if err == nil {
		var more []door
		more, err = a.openViewersDoor(ctx)
		doors = append(doors, more...)
	}
	a.http = a.httpServer(refuseCrowd(a.withMQTT(a.handler)))
	a.http.ConnContext = markCrowd
	if t := a.cfg.HTTP.TLS; t.Cert != "" && err == nil {
		a.http.TLSConfig, err = certificate(t.Cert, t.Key)
	}
	open("http", "http.listen", a.cfg.HTTP.Listen, func(_ context.Context, l net.Listener) error {
		if a.http.TLSConfig != nil {
			return a.http.ServeTLS(l, "", "")
		}
		return a.http.Serve(l)
	})
	if err != nil {
		return doors, err
	}
	a.transports.local.server = a.httpServer(a.localMux())
	l, err := listenLocal(ctx, a.cfg.Data)
	if err != nil {
		return doors, err
	}
	return append(doors, door{key: "socket", listen: l, serve: func(_ context.Context, l net.Listener) error {
		return a.transports.local.server.Serve(l)
	}}), nil
}

// listen opens a port; a taken or forbidden one gives one clear sentence.
func listen(ctx context.Context, setting, address string) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, signalbox.Errorf(signalbox.KindConflict, "port_taken", "another program listens on %s already; choose another address with %s", address, setting)
	case errors.Is(err, os.ErrPermission):
		return nil, signalbox.Errorf(signalbox.KindForbidden, "port_forbidden", "this user may not listen on %s; choose a port above 1023 with %s", address, setting)
	default:
		return nil, signalbox.Errorf(signalbox.KindInvalid, "cannot_listen", "%s cannot be listened on (%s); it is set by %s", address, err, setting)
	}
}

func certificate(cert, key string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, signalbox.Errorf(signalbox.KindInvalid, "bad_certificate", "the certificate %s with key %s cannot be used: %s", cert, key, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}, nil
}

func (a *App) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 5 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		WriteTimeout: 10 * time.Minute, // streams set a deadline of their own for each write
		ErrorLog:     slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug),
	}
}

// closeDoors is steps 1 and 2 of the order in Serve.
func (a *App) closeDoors(ctx context.Context) {
	for _, g := range a.groups() {
		if err := g.Close(ctx); err != nil {
			a.logger.Warn("some device connections had to be cut", "err", err)
		}
	}
	for _, s := range []*http.Server{a.http, a.transports.local.server} {
		if s == nil {
			continue
		}
		if err := s.Shutdown(ctx); err != nil {
			a.logger.Warn("some requests had to be cut", "err", errors.Join(err, s.Close()))
		}
	}
	a.awaitSockets(ctx)
}

// Addresses are those of the open listeners, by key: http, devices, devices_tls, mqtt, mqtt_tls, history_viewers.
func (a *App) Addresses() map[string]string {
	a.addressMu.Lock()
	defer a.addressMu.Unlock()
	return maps.Clone(a.addresses)
}

func (a *App) setAddress(key string, addr net.Addr) {
	a.addressMu.Lock()
	defer a.addressMu.Unlock()
	a.addresses[key] = reachable(addr)
}

// reachable turns the address of a listener on all interfaces into one that can be dialled
// on this machine.
func reachable(addr net.Addr) string {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return addr.String()
	}
	host := tcp.IP.String()
	if tcp.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, fmt.Sprint(tcp.Port))
}

func (a *App) addressesFile() string { return filepath.Join(a.cfg.Data, "addresses.json") }

// writeAddresses tells other programs where the listeners are; the file appears whole.
func (a *App) writeAddresses() error {
	body, err := json.Marshal(a.Addresses())
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	temporary := a.addressesFile() + ".new"
	if err := os.WriteFile(temporary, append(body, '\n'), 0o600); err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return os.Rename(temporary, a.addressesFile())
}
