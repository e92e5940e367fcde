"""What a streamed answer costs its reader, beside the SDK's own helper and a bare socket."""
