// Package session knows who is connected where. It is the one place where the two roads
// meet: the gateway attaches a connection, the command road finds it.
//
// Contract. A device has at most one session; the newest wins. Sessions carry a fencing
// number that grows with every login and across restarts, so whoever is late (a read
// that was under way on the old connection, its close event) can be told from the
// present one. Methods may be called from any goroutine and never wait for a network.
package session
