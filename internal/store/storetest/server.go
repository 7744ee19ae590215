package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// User is the user of every server.
	User = "signalbox"
	// Password is that user's; it has what a URL must escape.
	Password = "s3cret:/?#[]@! %é"

	startTimeout = 60 * time.Second
	startTries   = 3

	// Servers listen on ports from firstPort on, ports in all: below those that systems choose for
	// connections, of which one could have a server's port while it is stopped.
	firstPort, ports = 20_000, 12_000
	// portTries is how many of them are tried.
	portTries = 100
	// connectTimeout is for stores, on machines that have much else to do.
	connectTimeout = 30 * time.Second
)

// A Server is a running database server.
type Server struct {
	Kind    Kind
	dir     string
	port    int
	claim   io.Closer // keeps other test binaries from the port, also while the server is stopped
	options []string
	process *process
}

// Durable are the options of a server that waits for its disk. Without them a server that is
// killed loses nothing, but a machine could.
func Durable(kind Kind) []string {
	if kind == PostgreSQL {
		return []string{"-c", "fsync=on"}
	}
	return []string{"--innodb-flush-method=O_DIRECT"}
}

// start makes and starts a server. The caller holds mu.
func (f *fleet) start(tb testing.TB, kind Kind, options ...string) *Server {
	tb.Helper()
	if !f.ready {
		tb.Fatal("the package has no func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }")
	}
	s, err := f.tryStart(kind, options)
	if err != nil {
		log := ""
		if s != nil {
			log = s.log()
		}
		tb.Fatalf("a private %s server is needed and cannot be started: %v (scripts/test-deps installs what is needed)\n%s", kind, err, log)
	}
	return s
}

func (f *fleet) tryStart(kind Kind, options []string) (*Server, error) {
	if f.root == "" {
		root, err := os.MkdirTemp("", "sbdb")
		if err != nil {
			return nil, err
		}
		f.root = root
		if err := own(root); err != nil {
			return nil, err
		}
	}
	seed := f.seeds[kind]
	if seed == "" {
		seed = filepath.Join(f.root, "seed-"+string(kind))
		s := &Server{Kind: kind, dir: seed}
		if err := s.initialize(); err != nil {
			return s, err
		}
		f.seeds[kind] = seed
	}
	s := &Server{Kind: kind, dir: filepath.Join(f.root, strconv.FormatInt(f.names.Add(1), 10)), options: options}
	if err := run(nil, "cp", "-a", seed, s.dir); err != nil {
		return s, err
	}
	for try := 1; ; try++ {
		var err error
		if s.port, s.claim, err = claimPort(); err != nil {
			return s, err
		}
		if err = s.launch(); err == nil {
			f.running[s] = true
			return s, nil
		}
		if err = errors.Join(err, s.claim.Close()); try == startTries { // somebody else may have taken the port
			return s, err
		}
	}
}

// claimPort finds a port on which nobody listens. The servers speak TCP; who has the UDP port of
// the same number has a claim to it among test binaries.
func claimPort() (port int, claim io.Closer, err error) {
	for range portTries {
		port = firstPort + rand.IntN(ports)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		var held net.PacketConn
		if held, err = net.ListenPacket("udp", addr); err != nil { //nolint:noctx // ends at once
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", addr); err == nil { //nolint:noctx // ends at once
			err = l.Close()
		}
		if err == nil {
			return port, held, nil
		}
		_ = held.Close() // another is tried
	}
	return 0, nil, fmt.Errorf("no port is free: %w", err)
}

// program finds a server's program, in Debian's places too.
func program(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return path, nil
		}
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	slices.SortFunc(found, func(a, b string) int { return version(b) - version(a) })
	for _, path := range append(found, "/usr/sbin/"+name, "/usr/local/sbin/"+name) {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no program %s", name)
}

func version(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4])
	return n
}

// run runs a program to its end, as the servers' user.
func run(stdin []byte, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // a test's own words
	cmd.Stdin = strings.NewReader(string(stdin))
	cmd.Dir = "/"
	var err error
	if cmd.SysProcAttr, err = credentials(); err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// initialize makes the data directory.
func (s *Server) initialize() error {
	if s.Kind == PostgreSQL {
		initdb, err := program("initdb")
		if err != nil {
			return err
		}
		secret := s.dir + ".password"
		if err := os.WriteFile(secret, []byte(Password+"\n"), 0o600); err != nil {
			return err
		}
		if err := own(secret); err != nil {
			return err
		}
		return run(nil, initdb, "-D", s.dir, "-U", User, "-A", "scram-sha-256", "--pwfile", secret, "-E", "UTF8", "--no-sync",
			"--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US")
	}
	if err := run(nil, "mkdir", s.dir); err != nil {
		return err
	}
	script := []byte("CREATE DATABASE mysql;\nUSE mysql;\n")
	for _, name := range []string{"_system_tables.sql", "_system_tables_data.sql"} {
		// MariaDB has moved and renamed them.
		found, _ := filepath.Glob("/usr/share/m*/m*" + name)
		if len(found) == 0 {
			return fmt.Errorf("there is no file /usr/share/mysql/mysql%s", name)
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		script = append(script, text...)
	}
	script = fmt.Appendf(script, "\nFLUSH PRIVILEGES;\nCREATE USER '%s'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON *.* TO '%s'@'%%' WITH GRANT OPTION;\n", User, Password, User)
	mariadbd, err := program("mariadbd")
	if err != nil {
		return err
	}
	return run(script, mariadbd, append(s.mariaOptions(), "--bootstrap", "--character-set-server=utf8mb4", "--skip-networking")...)
}

// mariaOptions keep the files small.
func (s *Server) mariaOptions() []string {
	return []string{
		"--no-defaults", "--datadir=" + s.dir, "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M", "--aria-pagecache-buffer-size=8M",
		"--innodb-data-file-path=ibdata1:2M:autoextend", "--innodb-temp-data-file-path=ibtmp1:2M:autoextend", "--skip-log-bin", "--log-warnings=1",
	}
}

func (s *Server) command() (name string, args []string, err error) {
	if s.Kind == PostgreSQL {
		name, err = program("postgres")
		args = []string{
			"-D", s.dir, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-k", s.dir, "-c", "shared_buffers=32MB", "-c", "max_connections=60",
			"-c", "timezone=Asia/Kolkata", "-c", "synchronous_commit=off", "-c", "DateStyle=SQL, DMY", "-c", "default_transaction_isolation=serializable",
			"-c", "log_min_messages=error", "-c", "fsync=off",
		}
	} else {
		name, err = program("mariadbd")
		args = append(s.mariaOptions(), "--port="+strconv.Itoa(s.port), "--bind-address=127.0.0.1", "--socket="+s.socket(), "--pid-file="+filepath.Join(s.dir, "pid"),
			"--innodb-flush-method=nosync", "--performance-schema=OFF", "--max-connections=60", "--character-set-server=latin1", "--sql-mode=", "--default-time-zone=+05:30", "--autocommit=ON")
	}
	return name, append(args, s.options...), err
}

// launch starts the server and waits until it answers.
func (s *Server) launch() error {
	name, args, err := s.command()
	if err != nil {
		return err
	}
	if s.process, err = spawn(s.logFile(), name, args); err != nil {
		return err
	}
	driver, dsn := s.dsn(s.home())
	pool, err := sql.Open(driver, dsn)
	if err != nil {
		return errors.Join(err, s.process.end())
	}
	err = s.answers(pool)
	if err != nil {
		err = errors.Join(err, s.process.end())
	}
	return errors.Join(err, pool.Close())
}

func (s *Server) answers(pool *sql.DB) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := pool.PingContext(ctx)
		if err == nil {
			select {
			case <-s.process.ended:
				return errors.New("it ended at once, and another one answers")
			default:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-s.process.ended:
			return errors.New("it ended at once")
		case <-tick.C:
		}
	}
}

// Stop ends the server in order.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	orderly := syscall.SIGTERM
	if s.Kind == PostgreSQL {
		orderly = syscall.SIGINT
	}
	s.stop(tb, orderly)
}

// Kill ends the server without giving it time for anything.
func (s *Server) Kill(tb testing.TB) {
	tb.Helper()
	s.stop(tb, s.process.hard())
}

func (s *Server) stop(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := s.process.stop(sig); err != nil {
		tb.Fatalf("stop %s: %v\n%s", s.Kind, err, s.log())
	}
}

// Start starts a server that was stopped, on the same port, with other options from now on
// if any are given.
func (s *Server) Start(tb testing.TB, options ...string) {
	tb.Helper()
	if len(options) > 0 {
		s.options = options
	}
	if err := s.launch(); err != nil {
		tb.Fatalf("start %s again: %v\n%s", s.Kind, err, s.log())
	}
}

// Pause makes the server stand still: its connections stay, and nothing is answered.
func (s *Server) Pause(tb testing.TB) {
	tb.Helper()
	if err := s.process.pause(); err != nil {
		tb.Fatal(err)
	}
}

// Continue ends Pause.
func (s *Server) Continue(tb testing.TB) {
	tb.Helper()
	if err := s.process.resume(); err != nil {
		tb.Fatal(err)
	}
}

// Addr is the server's address, host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

func (s *Server) socket() string { return filepath.Join(s.dir, "sock") }

// home is the database that is there from the beginning.
func (s *Server) home() string {
	if s.Kind == PostgreSQL {
		return "postgres"
	}
	return "mysql"
}

func (s *Server) url(database string) string {
	scheme := map[Kind]string{MariaDB: "mysql", PostgreSQL: "postgres"}[s.Kind]
	return (&url.URL{Scheme: scheme, User: url.UserPassword(User, Password), Host: s.Addr(), Path: "/" + database}).String()
}

func (s *Server) socketURL(database string) string {
	u := url.URL{Scheme: "mysql", User: url.UserPassword(User, Password), Path: "/" + database, RawQuery: url.Values{"socket": {s.socket()}}.Encode()}
	if s.Kind == PostgreSQL {
		u.Scheme, u.Host, u.RawQuery = "postgres", ":"+strconv.Itoa(s.port), url.Values{"host": {s.dir}}.Encode()
	}
	return u.String()
}

// dsn is the address in the words of the driver.
func (s *Server) dsn(database string) (driver, dsn string) {
	if s.Kind == PostgreSQL {
		return "pgx", s.url(database) + "?sslmode=disable&connect_timeout=5"
	}
	return "mysql", fmt.Sprintf("%s:%s@tcp(%s)/%s?timeout=5s", User, Password, s.Addr(), database)
}

func (s *Server) quote(name string) string {
	if s.Kind == PostgreSQL {
		return `"` + name + `"`
	}
	return "`" + name + "`"
}

func (s *Server) logFile() string { return s.dir + ".log" }

// log gives the end of what the server said.
func (s *Server) log() string {
	text, err := os.ReadFile(s.logFile())
	if err != nil {
		return ""
	}
	return string(text[max(0, len(text)-4000):])
}
