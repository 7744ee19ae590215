'use strict';
// Shows what devices report as it comes: every two seconds, while somebody looks.
(() => {
  const live = document.getElementById('live');
  const find = new URLSearchParams(location.search).get('q') || '';
  const address = '/?part=devices&q=' + encodeURIComponent(find);
  let shown = '';
  const refresh = async () => {
    try {
      if (!document.hidden) {
        const answer = await fetch(address, {redirect: 'manual', cache: 'no-store', signal: AbortSignal.timeout(10000)});
        if (answer.type === 'opaqueredirect') {
          location.reload(); // the login has ended
          return;
        }
        if (!answer.ok) throw new Error(answer.statusText);
        const text = await answer.text();
        if (text !== shown) live.innerHTML = text;
        shown = text;
        live.classList.remove('stale');
      }
    } catch {
      live.classList.add('stale'); // the hub is away; perhaps it is there the next time
    }
    setTimeout(refresh, 2000);
  };
  setTimeout(refresh, 2000);
})();
