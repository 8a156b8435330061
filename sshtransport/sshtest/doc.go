// Package sshtest has SSH servers for tests: Server, in this process, which can be
// told to misbehave, and OpenSSH, a real sshd.
//
// Both run commands and keep files as the user who runs the test, and listen on a port
// of the loopback interface that the kernel chooses.
package sshtest
