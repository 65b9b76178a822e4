"""`view`: maps on a web page, for people to look at. One page and one script, fed in two ways: everything inside it, or tiles on demand.

layers.py   what each file is: classes, prototypes, values or imagery, with names, colours, dates and provenance
reading.py  a file's pixels made small enough for a page, with the areas of its classes
overlay.py  a layer on the web map: warped, encoded, described
tracks.py   layers in the order of the list; dated files of one kind become one series
page.py     the HTML page
serving.py  the same page on loopback, with tiles read on demand
page.html, *.css, *.js  what the browser runs; leaflet/ is Leaflet 1.9.4 as published, with its licence
"""
