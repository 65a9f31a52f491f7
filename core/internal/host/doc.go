// Package host is the control side of the machines that nodes run on: this one, and others
// over ssh. It places binaries by their checksum, starts jobs and joins them again after a
// cut connection, and speaks with the guard and the locks there. What it speaks with
// is snapfw-host (package core/onhost); a machine needs sshd and a POSIX sh and
// nothing else.
//
// A [Pool] holds one [Machine] for each user, host and port. A Machine is safe
// for concurrent use and connects again by itself.
package host
