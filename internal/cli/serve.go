package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"signalbox/internal/app"
)

type serveFlags struct {
	http, devices, mqtt, store, history, logLevel, logFormat string
	set                                                      []string
}

func (c *command) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the hub",
		Long: `Runs the hub until it is interrupted (Ctrl-C or SIGTERM). It needs no configuration: the data
directory is made if it is missing, and with it the user admin, whose password is printed once
(SIGNALBOX_ADMIN_PASSWORD sets your own). The first interrupt stops the hub in order, a second one at
once; what was acknowledged is on disk either way. DATA/addresses.json holds the addresses in use
while the hub runs.`,
		Example: `  signalbox serve
  signalbox serve --data /var/lib/signalbox --http :80
  signalbox serve --http 127.0.0.1:0 --devices :0
  signalbox serve --config /etc/signalbox.yaml --set devices.max_frame=128KiB`,
		Args: between(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.serve(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.http, "http", "", "the address of page and API (default :8080); port 0 is any free one")
	flags.StringVar(&f.devices, "devices", "", "the address of devices (default :8765); port 0 is any free one")
	flags.StringVar(&f.mqtt, "mqtt", "", "the address of MQTT clients (default :1883, without if another program has it), or off; port 0 is any free one. MQTT over WebSocket stays: see mqtt.websocket")
	flags.StringVar(&f.store, "store", "", "the database: mysql://… or postgres://… (default SQLite in the data directory); SIGNALBOX_STORE keeps a password out of the list of processes")
	flags.StringVar(&f.history, "history", "", "chunks, or plain for a table with a row a message beside them (default chunks)")
	flags.StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	flags.StringVar(&f.logFormat, "log-format", "", "text or json (default text)")
	flags.StringArrayVar(&f.set, "set", nil, "any other setting, as `KEY=VALUE`; may be repeated (see «signalbox config doc»)")
	completeFlag(cmd, "history", fixed([]string{"chunks", "plain"}))
	completeFlag(cmd, "log-level", fixed([]string{"debug", "info", "warn", "error"}))
	completeFlag(cmd, "log-format", fixed([]string{"text", "json"}))
	completeFlag(cmd, "set", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var keys []string
		for _, v := range app.Variables() {
			if v.Key != "" && !slices.Contains(keys, v.Key+"=") {
				keys = append(keys, v.Key+"=")
			}
		}
		return keys, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return cmd
}

// settings gives the flags as settings by key.
func (f serveFlags) settings() (map[string]string, error) {
	all := make(map[string]string)
	for _, s := range f.set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return nil, usagef("--set %s: KEY=VALUE is needed, such as devices.max_frame=128KiB", s)
		}
		all[key] = value
	}
	for key, value := range map[string]string{"http.listen": f.http, "devices.listen": f.devices, "mqtt.listen": f.mqtt, "store": f.store, "history.mode": f.history, "log.level": f.logLevel, "log.format": f.logFormat} {
		if value != "" {
			all[key] = value
		}
	}
	return all, nil
}

func (c *command) serve(ctx context.Context, f serveFlags) (err error) {
	if c.flags.url != "" {
		return usagef("serve runs a hub here; --url is for the commands that speak to one")
	}
	settings, err := f.settings()
	if err != nil {
		return err
	}
	loaded, err := c.loadConfig(settings)
	if err != nil {
		return err
	}
	cfg := loaded.Config
	defer c.makeRoom()()
	hub, err := app.Open(ctx, app.Options{Config: cfg, Logger: newLogger(c.Stderr, cfg.Log), Version: c.version(), From: loaded.From})
	if err != nil {
		return failureError{err}
	}
	defer func() {
		if closeErr := hub.Close(); closeErr != nil {
			err = failureError{errors.Join(err, closeErr)}
		}
	}()
	_, password, first, err := hub.FirstAdmin(ctx, c.env("SIGNALBOX_ADMIN_PASSWORD"))
	if err != nil {
		return failureError{err}
	}
	if c.env("SIGNALBOX_ADMIN_PASSWORD") != "" {
		password = "" // whoever set it knows it
	}
	shown := false
	err = hub.Serve(ctx, func(addresses map[string]string) {
		shown = true
		_, _ = io.WriteString(c.Stdout, c.welcome(cfg, addresses, first, password)) // a hub runs without a reader, too
	})
	if first && !shown && password != "" {
		// The user is there, and the next start will not tell.
		c.notef("The user admin was made; the password, shown this once, is %s\n", password)
	}
	if err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)) {
		return failureError{err}
	}
	return nil
}

// newLogger makes the hub's logger.
func newLogger(w io.Writer, cfg app.LogConfig) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.Level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// welcome is what serve prints when all listeners accept: long the first time, else short.
func (c *command) welcome(cfg app.Config, addresses map[string]string, first bool, password string) string {
	p := c.paint()
	var b strings.Builder
	line := func(what, value string) { fmt.Fprintf(&b, "  %-14s%s\n", what, value) }
	scheme, deviceScheme := "http://", "ws://"
	if cfg.HTTP.TLS.Cert != "" {
		scheme = "https://"
	}
	b.WriteString(p.bold("Signalbox is running.") + "\n")
	line("Page and API", p.cyan(scheme+addresses["http"]))
	line("Devices", p.cyan(deviceScheme+addresses["devices"]))
	if a := addresses["devices_tls"]; a != "" {
		line("", p.cyan("wss://"+a))
	}
	if host := outwardHost(cfg.Devices.Listen); host != "" {
		if _, port, err := net.SplitHostPort(addresses["devices"]); err == nil {
			line("", p.cyan(deviceScheme+net.JoinHostPort(host, port))+" from other machines")
		}
	}
	if a := addresses["mqtt"]; a != "" {
		line("MQTT", p.cyan("mqtt://"+a))
	}
	if a := addresses["mqtt_tls"]; a != "" {
		line("MQTT, TLS", p.cyan("mqtts://"+a))
	}
	if dir, err := filepath.Abs(cfg.Data); err == nil {
		line("Data", dir)
	}
	if first {
		b.WriteByte('\n')
		line("User", "admin")
		if password != "" {
			line("Password", p.bold(password)+"  (shown this once)")
		} else {
			line("Password", "the one in SIGNALBOX_ADMIN_PASSWORD")
		}
		b.WriteString("\nAdd a device:\n  " + p.bold(c.self()+" device add esp01 --type box"+c.dataFlag()) + "\n")
	}
	b.WriteString("\nCtrl-C stops the hub.\n")
	return b.String()
}

// dataFlag repeats --data for a line to copy.
func (c *command) dataFlag() string {
	if c.flags.data == "" {
		return ""
	}
	return " --data " + shellQuote(c.flags.data)
}

// self is how this program was called, for a line to copy.
func (p *Program) self() string {
	if p.Name == "" {
		return "signalbox"
	}
	return shellQuote(p.Name)
}

// shellQuote quotes text for a shell where it must.
func shellQuote(text string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:=@%+,", r)
	}
	if text != "" && strings.IndexFunc(text, func(r rune) bool { return !plain(r) }) < 0 {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// outwardHost gives an address of this machine that others can reach, when listen means
// every address; empty if there is none.
func outwardHost(listen string) string {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return ""
	}
	if a, err := netip.ParseAddr(host); host != "" && (err != nil || !a.IsUnspecified()) {
		return ""
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addresses {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr().String()
		}
	}
	return ""
}
