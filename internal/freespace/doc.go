// Package freespace asks the system how much room a folder has.
package freespace
