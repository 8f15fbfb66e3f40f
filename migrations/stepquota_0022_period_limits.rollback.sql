-- What was filled in is right, and stays.
do $nothing_to_undo$ begin null; end; $nothing_to_undo$;
