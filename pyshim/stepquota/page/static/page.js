// Moments are in UTC. Where the viewer's zone is another one, they are shown in it, with UTC beside.
"use strict";
const zone = Intl.DateTimeFormat().resolvedOptions();
const inZone = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
});
for (const time of document.querySelectorAll("time[datetime]")) {
  const moment = new Date(time.dateTime);
  if (moment.getTimezoneOffset() !== 0) {
    const utc = document.createElement("span");
    utc.className = "utc";
    utc.textContent = ` (${time.textContent})`;
    time.textContent = inZone.format(moment);
    time.title = zone.timeZone;
    time.append(utc);
  }
}
const answer = document.getElementById("answer");
if (answer) {
  answer.focus();
}
