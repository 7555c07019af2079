// Package hikae is being written.
package hikae
