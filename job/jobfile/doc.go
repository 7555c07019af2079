// Package jobfile reads the file that describes a job: which machines are backed up, to where, when, with what done in their guests,
// how long points stay, and who is told. The file is YAML; this package turns it into values and does nothing with them.
//
// # Reading
//
// [Parse] is strict. What it does not know is a mistake and not a wish for later, because a job whose retention is misspelled
// would run for a year before somebody notices. All mistakes of a file are told at once ([*Error]), each with its line and, where
// that can be guessed, with what was meant.
//
// The file is bounded in size, depth and number of values, aliases counted as often as they stand for something.
//
// # Secrets
//
// A job file holds none. It says where they are: in a file, or in a variable of the environment. A secret that was written into
// it is refused without being repeated in the message.
//
// # For editors
//
// [Schema] is a JSON Schema of the file, made from the same types that it is read into.
package jobfile
