package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"signalbox/client"
	"signalbox/internal/app"
)

// maxSecretFile bounds a file with a secret, in bytes.
const maxSecretFile = 64 << 10

// forwarderFlag is a flag that sets a member of a forwarder.
type forwarderFlag struct {
	flag, member string // queue.max_age is max_age in queue
	kind         string // text, list, number, truth, span
	help         string
	words        []string // the only ones, if there are some
}

func forwarderFlags() []forwarderFlag {
	return []forwarderFlag{
		{"device", "devices", "list", "only this device; may be repeated", nil},
		{"type", "types", "list", "only devices of this type; may be repeated", nil},
		{"kind", "kinds", "list", "only this kind: telemetry (the default), presence, command, alert; may be repeated", []string{"telemetry", "presence", "command", "alert"}},
		{"fields", "fields", "list", "only these fields of telemetry", nil},
		{"format", "format", "text", "json (a line of JSON a message), template, or viewer (the frame of the original viewers)", []string{"json", "template", "viewer"}},
		{"template", "template", "text", "what is sent with --format template", nil},
		{"field", "field", "text", "the field that is sent with --format viewer", nil},
		{"queue-entries", "queue.max_entries", "number", "how many entries of the log it may be behind (default 100000000)", nil},
		{"queue-age", "queue.max_age", "span", "how old what waits may be (default 7d)", nil},
		{"backoff-min", "backoff.min", "span", "the first wait after a fault (default 500ms)", nil},
		{"backoff-max", "backoff.max", "span", "the longest wait after a fault (default 30s)", nil},
		{"timeout", "timeout", "span", "bounds connecting and each answer (default 10s)", nil},
		{"ack", "ack", "truth", "tcp: the receiver answers with lines that hold the cursor of what it has", nil},
		{"allow", "allow", "list", "tcp-listen: a network whose computers may connect (default: this machine); may be repeated", nil},
		{"topic", "topic", "text", "mqtt: the topic, a template", nil},
		{"qos", "qos", "number", "mqtt: 0, 1 or 2", nil},
		{"retain", "retain", "truth", "mqtt: the broker keeps the last message of each topic", nil},
		{"username", "username", "text", "mqtt and HTTP Basic", nil},
		{"client-id", "client_id", "text", "mqtt: the client identifier", nil},
		{"mqtt-version", "version", "text", "5.0 (the default) or 3.1.1", []string{"5.0", "3.1.1"}},
		{"parallel", "parallel", "number", "http: how many requests are under way at a time (default 1)", nil},
		{"attempts", "attempts", "number", "http: how often a message is tried that is refused for now (default 20; -1: without end)", nil},
		{"content-type", "content_type", "text", "http: the type of a body made by a template", nil},
		{"sequence", "sequence", "truth", "udp: number the datagrams", nil},
		{"paused", "paused", "truth", "send nothing yet", nil},
	}
}

// forwarderSecrets are the secrets of a forwarder, by their member.
func forwarderSecrets() []string { return []string{"password", "bearer", "secret"} }

func addForwarderFlags(c *command, cmd *cobra.Command) {
	flags := cmd.Flags()
	for _, f := range forwarderFlags() {
		switch f.kind {
		case "list":
			flags.StringSlice(f.flag, nil, f.help)
		case "number":
			flags.Int(f.flag, 0, f.help)
		case "truth":
			flags.Bool(f.flag, false, f.help)
		default:
			flags.String(f.flag, "", f.help)
		}
		if len(f.words) > 0 {
			completeFlag(cmd, f.flag, fixed(f.words))
		}
	}
	completeFlag(cmd, "device", inList(func(cmd *cobra.Command, args []string, begun string) []string {
		words, _ := c.completeDevices(cmd, nil, begun)
		return words
	}))
	completeFlag(cmd, "type", inList(c.types))
	about := map[string]string{"password": "the password (mqtt, HTTP Basic)", "bearer": "the bearer token (ws, http)", "secret": "the key that signs webhooks"}
	for _, s := range forwarderSecrets() {
		flags.String(s+"-file", "", "a file with "+about[s]+"; - is standard input")
		flags.Bool("ask-"+s, false, "ask for "+about[s]+" on the terminal")
		_ = cmd.MarkFlagFilename(s + "-file")
	}
}

// forwarderSetLong is what add and change have in common.
const forwarderSetLong = `Passwords, tokens and keys are read from a file (--password-file, --bearer-file, --secret-file; - is standard
input) or asked for on the terminal (--ask-password, --ask-bearer, --ask-secret), so that they are in no list of
processes. A URL that holds a secret is given as -, and read from the first line of standard input.`

func (c *command) forwarderAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME URL",
		Short: "Add a forwarder; it begins with what comes from now on",
		Long: `Targets are tcp://host:port, tcp-listen://host:port (others connect to it), udp://host:port, ws:// and wss://,
http:// and https:// (webhooks), mqtt:// and mqtts://.

` + forwarderSetLong,
		Example: `  signalbox forwarder add site tcp://203.0.113.7:9000 --type station
  signalbox forwarder add log udp://203.0.113.7:9001 --format template --template '{device} {field.temp}'
  signalbox forwarder add hook https://example.org/in --kind telemetry,presence --secret-file hook.key
  signalbox forwarder add broker mqtts://broker.example --topic 'hub/{device}' --qos 1 --username hub --ask-password`,
		Args:              between(2, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			members, err := c.forwarderMembers(cmd.Context(), cmd.Flags(), args[1])
			if err != nil {
				return err
			}
			members["name"] = args[0]
			text, err := json.Marshal(members)
			if err != nil {
				return fmt.Errorf("write the forwarder: %w", err)
			}
			var spec client.ForwarderSpec
			if err := json.Unmarshal(text, &spec); err != nil {
				return fmt.Errorf("write the forwarder: %w", err)
			}
			return c.withPlace(cmd.Context(), func(r *reach) error {
				made, err := r.AddForwarder(cmd.Context(), spec)
				if err != nil {
					return targetHint(err)
				}
				return c.forwarderSet(r, &made, "added")
			})
		},
	}
	addForwarderFlags(c, cmd)
	return cmd
}

func (c *command) forwarderChangeCommand() *cobra.Command {
	var to string
	var reset []string
	cmd := &cobra.Command{
		Use:   "change NAME",
		Short: "Change a forwarder; it goes on where it was",
		Long: `What is not named stays. --reset takes members back to their defaults, and clears secrets.

` + forwarderSetLong,
		Example: `  signalbox forwarder change site --type station,sensor
  signalbox forwarder change hook --ask-secret
  signalbox forwarder change hook --reset types,bearer`,
		Args:              between(1, 1),
		ValidArgsFunction: c.completeForwarder,
		RunE: func(cmd *cobra.Command, args []string) error {
			members, err := c.forwarderMembers(cmd.Context(), cmd.Flags(), to)
			if err != nil {
				return err
			}
			for _, name := range reset {
				if err := oneOf("reset", name, forwarderResets()); err != nil {
					return err
				}
				if _, also := members[name]; also {
					return usagef("%s is set and reset", name)
				}
				members[name] = nil
			}
			if len(members) == 0 {
				return usagef("nothing is to be changed: %s", cmd.UseLine())
			}
			return c.withHub(cmd.Context(), func(r *reach) error {
				changed, err := r.ChangeForwarder(cmd.Context(), args[0], members)
				if err != nil {
					return targetHint(err)
				}
				return c.forwarderSet(r, &changed, "changed")
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the target's URL; - is the first line of standard input")
	cmd.Flags().StringSliceVar(&reset, "reset", nil, "members that take their default again, such as types or bearer")
	completeFlag(cmd, "reset", fixedList(forwarderResets()))
	addForwarderFlags(c, cmd)
	return cmd
}

// forwarderResets are what can be taken back to its default.
func forwarderResets() []string {
	names := forwarderSecrets()
	for _, f := range forwarderFlags() {
		name, _, _ := strings.Cut(f.member, ".")
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// forwarderSet tells that a forwarder was added or changed.
func (c *command) forwarderSet(r *reach, f *client.Forwarder, what string) error {
	if c.flags.json {
		return c.printJSON(f)
	}
	if !r.alive {
		c.notef("No hub runs on this directory; the forwarder begins when one does.\n")
	}
	return c.done(f.Name, what)
}

// forwarderMembers gives the members that flags and URL set.
func (c *command) forwarderMembers(ctx context.Context, flags *pflag.FlagSet, to string) (map[string]any, error) {
	members := map[string]any{}
	for _, f := range forwarderFlags() {
		if !flags.Changed(f.flag) {
			continue
		}
		value, err := forwarderValue(flags, &f)
		if err != nil {
			return nil, err
		}
		if section, name, nested := strings.Cut(f.member, "."); nested {
			inner, _ := members[section].(map[string]any)
			if inner == nil {
				inner = map[string]any{}
				members[section] = inner
			}
			inner[name] = value
			continue
		}
		members[f.member] = value
	}
	input := &once{from: c.Stdin}
	if to == "-" {
		var err error
		if to, err = input.line("the URL"); err != nil {
			return nil, err
		}
	}
	if to != "" {
		members["to"] = to
	}
	for _, name := range forwarderSecrets() {
		secret, err := c.forwarderSecret(ctx, flags, name, input)
		if err != nil {
			return nil, err
		}
		if secret != "" {
			members[name] = secret
		}
	}
	return members, nil
}

func forwarderValue(flags *pflag.FlagSet, f *forwarderFlag) (value any, err error) {
	switch f.kind {
	case "list":
		list, err := flags.GetStringSlice(f.flag)
		for _, word := range list {
			if len(f.words) > 0 && err == nil {
				err = oneOf(f.flag, word, f.words)
			}
		}
		return list, err
	case "number":
		n, err := flags.GetInt(f.flag)
		allowed := map[string]string{"queue-entries": "1 and more", "attempts": "1 to 1,000,000, and -1 for tries without end", "parallel": "1 to 64"}[f.flag]
		if n == 0 && err == nil && allowed != "" { // it would be taken for the default
			return nil, usagef("--%s 0: allowed are %s", f.flag, allowed)
		}
		return n, err
	case "truth":
		return flags.GetBool(f.flag)
	}
	text, err := flags.GetString(f.flag)
	switch {
	case err != nil:
		return nil, err
	case f.kind == "span":
		var d time.Duration
		if d, err = app.ParseDuration(text); err != nil || d == 0 {
			return nil, usagef("--%s %s is no duration above 0; allowed are such as 500ms, 30s or 7d", f.flag, text)
		}
	case len(f.words) > 0:
		err = oneOf(f.flag, text, f.words)
	}
	return text, err
}

// forwarderSecret reads or asks for a secret; empty: it is not wanted.
func (c *command) forwarderSecret(ctx context.Context, flags *pflag.FlagSet, name string, input *once) (string, error) {
	file, err := flags.GetString(name + "-file")
	if err != nil {
		return "", err
	}
	ask, err := flags.GetBool("ask-" + name)
	switch {
	case err != nil:
		return "", err
	case ask && file != "":
		return "", usagef("--ask-%s and --%s-file exclude each other", name, name)
	case file == "-":
		return input.line("the " + name)
	case file != "":
		return readSecretFile(name, file)
	case !ask:
		return "", nil
	}
	fd, ok := terminal(c.Stdin)
	if !ok {
		return "", usagef("there is no terminal to ask for the %s; give it with --%s-file", name, name)
	}
	c.notef("The %s, which is not shown: ", name)
	defer c.notef("\n")
	secret, err := readHidden(ctx, fd)
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", name, err)
	}
	if secret == "" {
		return "", usagef("the %s is empty; nothing was changed", name)
	}
	return secret, nil
}

// readSecretFile reads a file without the white space at its end.
func readSecretFile(name, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", usagef("--%s-file %s cannot be read: %s", name, file, app.Cause(err))
	}
	defer func() { _ = f.Close() }() // it was read only
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	switch {
	case err != nil:
		return "", usagef("--%s-file %s cannot be read: %s", name, file, app.Cause(err))
	case len(data) > maxSecretFile:
		return "", usagef("--%s-file %s is longer than %d KiB", name, file, maxSecretFile>>10)
	}
	if data = bytes.TrimRight(data, " \t\r\n"); len(data) == 0 {
		return "", usagef("--%s-file %s is empty", name, file)
	}
	return string(data), nil
}

// once gives the first line of standard input to whoever wants it first.
type once struct {
	from  io.Reader
	taken string
}

func (o *once) line(what string) (string, error) {
	if o.taken != "" {
		return "", usagef("%s and %s cannot both come from standard input", o.taken, what)
	}
	o.taken = what
	data, err := io.ReadAll(io.LimitReader(o.from, maxSecretFile+1))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", what, err)
	}
	if len(data) > maxSecretFile {
		return "", usagef("%s on standard input is longer than %d KiB", what, maxSecretFile>>10)
	}
	text, _, _ := strings.Cut(string(data), "\n")
	if text = strings.TrimSpace(text); text == "" {
		return "", usagef("standard input has no line with %s", what)
	}
	return text, nil
}
