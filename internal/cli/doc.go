// Package cli is the command line: the hub itself (serve) and the commands of people and
// scripts, which speak the HTTP API like everyone else.
//
// # Reaching the hub
//
// A command that needs a hub looks for it in this order: the address given by --url, with
// a token; the socket DATA/signalbox.sock of a hub that runs on the data directory, as
// admin; and where no hub runs, it takes the directory's lock and serves the API inside
// its own process for as long as the command lasts. One process opens the store, always.
// Where another process comes between, the command turns to it. Commands that add something
// make a directory that is missing, all others refuse one without data.
//
// # Output
//
// What was asked for goes to standard output and nothing else does; errors, notices and
// progress go to standard error. --json gives one JSON value, for lists that may be long
// or have no end one a line. Text that came from a device or a file is cleaned of control
// characters before it reaches a terminal. Colours appear on terminals only, and not with
// NO_COLOR.
//
// # Exit codes
//
// See ExitCodes; each kind of error has one place in it. An interrupted command ends with
// 130, except those that run until they are interrupted: serve and watch, which end with 0.
package cli
