// Package mover carries backups between two machines.
package mover
