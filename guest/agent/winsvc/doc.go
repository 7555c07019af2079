// Package winsvc is what the component needs of Windows itself: a named pipe to be spoken to by, to be a service, and to
// leave nothing. On other systems it has [ErrNotWindows] and the rules that need no Windows.
//
// # The pipe
//
// The component opens no port. It is spoken to through a named pipe, which a session on SMB (TCP 445) carries from
// another machine. Its rules:
//
//   - only LocalSystem and administrators may open it, and only one client at a time;
//   - nobody can have made a pipe of that name before (first instance), so that nobody stands between;
//   - clients from other machines are refused unless [PipeOptions] allows them.
//
// # Leaving nothing
//
// Windows does not let a running program delete its own file. So [Leave] takes away all the rest, and the file and its
// folder go in one of two ways: the controller deletes them once the program has ended (the rule), or, where no
// controller is left because the lease ran out, Windows does at its next start ([LeaveAtRestart]) and the next session's
// component does at its own ([Sweep]).
//
// All of this was run under wine only, not on a real Windows.
package winsvc
